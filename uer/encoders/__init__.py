"""Encoders by their `--encoder` names."""

from uer.encoders.base import Encoder
from uer.encoders.dual import DualEncoder
from uer.encoders.gatedcnn import GatedCnnEncoder
from uer.encoders.recurrent import BigruEncoder, BilstmEncoder, BirnnEncoder, GruEncoder, LstmEncoder, RnnEncoder
from uer.encoders.transformer import TransformerEncoder

ENCODERS: dict[str, type[Encoder]] = {
    "transformer": TransformerEncoder,
    "rnn": RnnEncoder,
    "lstm": LstmEncoder,
    "gru": GruEncoder,
    "birnn": BirnnEncoder,
    "bilstm": BilstmEncoder,
    "bigru": BigruEncoder,
    "gatedcnn": GatedCnnEncoder,
    "dual": DualEncoder,
}

__all__ = ["ENCODERS", "Encoder"]
