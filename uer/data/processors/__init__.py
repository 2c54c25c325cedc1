"""One file per `--data_processor`: how documents become instances, and how instances become a batch.

`base` says what a processor is.
"""

from uer.data.processors.albert import AlbertProcessor
from uer.data.processors.bart import BartProcessor
from uer.data.processors.base import Processor
from uer.data.processors.bert import BertProcessor
from uer.data.processors.bilm import BilmProcessor
from uer.data.processors.cls import ClsProcessor
from uer.data.processors.cls_mlm import ClsMlmProcessor
from uer.data.processors.gsg import GsgProcessor
from uer.data.processors.lm import LmProcessor
from uer.data.processors.mlm import MlmProcessor
from uer.data.processors.mt import MtProcessor
from uer.data.processors.prefixlm import PrefixlmProcessor
from uer.data.processors.t5 import T5Processor

PROCESSORS: dict[str, type[Processor]] = {
    "bert": BertProcessor,
    "mlm": MlmProcessor,
    "lm": LmProcessor,
    "bilm": BilmProcessor,
    "albert": AlbertProcessor,
    "mt": MtProcessor,
    "t5": T5Processor,
    "cls": ClsProcessor,
    "prefixlm": PrefixlmProcessor,
    "gsg": GsgProcessor,
    "bart": BartProcessor,
    "cls_mlm": ClsMlmProcessor,
}
