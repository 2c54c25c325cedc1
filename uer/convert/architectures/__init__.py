"""The architectures that can be converted, by Hugging Face's model_type: one file each."""

from uer.convert.architectures.albert import ALBERT
from uer.convert.architectures.base import Architecture
from uer.convert.architectures.bert import BERT
from uer.convert.architectures.gpt2 import GPT2

ARCHITECTURES: dict[str, Architecture] = {"bert": BERT, "albert": ALBERT, "gpt2": GPT2}

__all__ = ["ARCHITECTURES", "Architecture"]
