"""One file per `--data_processor`: how documents become instances, and how instances become a batch.

`base` says what a processor offers.
"""

from uer.data.processors.base import Processor
from uer.data.processors.mlm import MlmProcessor

PROCESSORS: dict[str, type[Processor]] = {"mlm": MlmProcessor}
PLANNED = ("bert", "lm", "bilm", "albert", "mt", "t5", "cls", "prefixlm", "gsg", "bart", "cls_mlm")
