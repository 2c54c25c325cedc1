"""The architectures that can be converted, by name: one file each.

A name is Hugging Face's model_type, or tells apart two architectures of one model_type.
"""

from uer.convert.architectures.albert import ALBERT
from uer.convert.architectures.bart import BART
from uer.convert.architectures.base import Architecture
from uer.convert.architectures.bert import BERT
from uer.convert.architectures.bloom import BLOOM
from uer.convert.architectures.gpt2 import GPT2
from uer.convert.architectures.llama import LLAMA
from uer.convert.architectures.modernbert import MODERNBERT
from uer.convert.architectures.pegasus import PEGASUS
from uer.convert.architectures.qwen import QWEN2, QWEN3
from uer.convert.architectures.sbert import SBERT
from uer.convert.architectures.t5 import T5, T5_V1_1
from uer.convert.architectures.xlmroberta import XLM_ROBERTA

ARCHITECTURES: dict[str, Architecture] = {
    "bert": BERT, "albert": ALBERT, "gpt2": GPT2,
    "bart": BART,
    "t5": T5,
    "t5-v1_1": T5_V1_1,
    "pegasus": PEGASUS,
    "sbert": SBERT,
    "xlm-roberta": XLM_ROBERTA,
    "modernbert": MODERNBERT,
    "bloom": BLOOM,
    "llama": LLAMA,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
}

__all__ = ["ARCHITECTURES", "Architecture"]
