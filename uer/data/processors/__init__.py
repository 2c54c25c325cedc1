"""One file per `--data_processor`: how documents become instances, and how instances become a batch.

`base` says what a processor is.
"""

from uer.data.processors.albert import AlbertProcessor
from uer.data.processors.base import Processor
from uer.data.processors.bert import BertProcessor
from uer.data.processors.bilm import BilmProcessor
from uer.data.processors.cls import ClsProcessor
from uer.data.processors.cls_mlm import ClsMlmProcessor
from uer.data.processors.lm import LmProcessor
from uer.data.processors.mlm import MlmProcessor
from uer.data.processors.mt import MtProcessor
from uer.data.processors.prefixlm import PrefixlmProcessor

PROCESSORS: dict[str, type[Processor]] = {
    "bert": BertProcessor,
    "mlm": MlmProcessor,
    "lm": LmProcessor,
    "bilm": BilmProcessor,
    "albert": AlbertProcessor,
    "mt": MtProcessor,
    "cls": ClsProcessor,
    "prefixlm": PrefixlmProcessor,
    "cls_mlm": ClsMlmProcessor,
}
PLANNED = ("t5", "gsg", "bart")
