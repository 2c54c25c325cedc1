"""Decoders by their `--decoder` names."""

from uer.decoders.base import Decoder, DecoderCache
from uer.decoders.transformer import TransformerDecoder

DECODERS: dict[str, type[Decoder]] = {
    "transformer": TransformerDecoder,
}

__all__ = ["DECODERS", "Decoder", "DecoderCache"]
