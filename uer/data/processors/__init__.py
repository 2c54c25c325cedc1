"""One file per `--data_processor`: how documents become instances, and how instances become a batch.

`base` says what a processor is.
"""

from uer.data.processors.albert import AlbertProcessor
from uer.data.processors.base import Processor
from uer.data.processors.bert import BertProcessor
from uer.data.processors.bilm import BilmProcessor
from uer.data.processors.lm import LmProcessor
from uer.data.processors.mlm import MlmProcessor

PROCESSORS: dict[str, type[Processor]] = {
    "bert": BertProcessor,
    "mlm": MlmProcessor,
    "lm": LmProcessor,
    "bilm": BilmProcessor,
    "albert": AlbertProcessor,
}
PLANNED = ("mt", "t5", "cls", "prefixlm", "gsg", "bart", "cls_mlm")
