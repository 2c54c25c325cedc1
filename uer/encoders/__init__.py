"""Encoders by their `--encoder` names."""

from uer.encoders.transformer import TransformerEncoder

ENCODERS = {"transformer": TransformerEncoder}
PLANNED = ("rnn", "lstm", "gru", "birnn", "bilstm", "bigru", "gatedcnn", "dual")

__all__ = ["ENCODERS", "PLANNED"]
