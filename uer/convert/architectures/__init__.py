"""The architectures that can be converted, by Hugging Face's model_type: one file each."""

from uer.convert.architectures.base import Architecture
from uer.convert.architectures.bert import BERT

ARCHITECTURES: dict[str, Architecture] = {"bert": BERT}

__all__ = ["ARCHITECTURES", "Architecture"]
