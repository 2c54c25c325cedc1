"""The dual encoder: two encoders for the two texts of a pair (Reimers and Gurevych, 2019, for sentence embeddings)."""

from torch import Tensor

from uer.config import DUAL, ModelConfig
from uer.encoders.base import Encoder
from uer.layers.layout import Layout, Queries
from uer.registry import choose


class DualEncoder(Encoder):
    """`encoder_0` with the settings of `stream_0`, `encoder_1` with those of `stream_1`.

    With `tie_weights` both are the same module, that of `stream_0`. A model that takes pairs of texts asks for
    `stream(0)` and `stream(1)`; the dual encoder itself computes what its first encoder does.
    """

    streams = 2

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder_0 = _encoder(config.stream(0))
        self.encoder_1 = self.encoder_0 if config.tie_weights else _encoder(config.stream(1))
        both = (self.encoder_0, self.encoder_1)
        self.reads_padding = any(encoder.reads_padding for encoder in both)
        self.keeps_documents_apart = all(encoder.keeps_documents_apart for encoder in both)

    @classmethod
    def problems(cls, config: ModelConfig) -> list[str]:
        """Streams that are missing or do not fit one another, and what their encoders report."""
        if config.stream_0 is None or config.stream_1 is None:
            return ["encoder 'dual' needs stream_0 and stream_1 in --config_path, the settings of its two encoders"]
        both = [config.stream(number) for number in range(cls.streams)]
        if any(DUAL in (stream.encoder, *stream.embedding) for stream in both):
            return ["stream_0 and stream_1 must each name an encoder and embeddings other than 'dual'"]
        found = [f"stream_{number}: {line}" for number, stream in enumerate(both)
                 for line in _problems(stream)]
        if both[0].hidden_size != both[1].hidden_size:
            found.append(f"stream_0 and stream_1 must have one hidden_size, not {both[0].hidden_size} and "
                         f"{both[1].hidden_size}")
        if config.tie_weights and both[0] != both[1]:
            found.append("tie_weights makes one encoder of stream_0 and stream_1, but their settings differ")
        return found

    @classmethod
    def sees(cls, config: ModelConfig) -> str:
        """What the first encoder sees."""
        return _kind(config.stream(0)).sees(config.stream(0)) if config.stream_0 else "all"

    def stream(self, number: int) -> Encoder:
        """The encoder of stream 0 or 1."""
        return (self.encoder_0, self.encoder_1)[number]

    def checkpoint_activations(self, mode: str) -> None:
        """As both encoders do."""
        self.encoder_0.checkpoint_activations(mode)
        self.encoder_1.checkpoint_activations(mode)

    def forward(self, embedded: Tensor, layout: Layout, queries: Queries | None = None) -> Tensor:
        """(N, E) -> (N, H), or (K, H) for the tokens that are wanted: those of stream 0."""
        return self.encoder_0(embedded, layout, queries)


def _kind(config: ModelConfig) -> type[Encoder]:
    """The class of one stream's encoder."""
    from uer.encoders import ENCODERS  # which has this module's class as an entry

    return choose(ENCODERS, config.encoder, "encoder")


def _problems(config: ModelConfig) -> list[str]:
    """What the settings of one stream, its encoder's own ones among them, and the encoder itself report."""
    kind = _kind(config)
    own = config.of(kind.config_class)
    return [*config.problems(), *(own.problems() if hasattr(own, "problems") else ()), *kind.problems(config)]


def _encoder(config: ModelConfig) -> Encoder:
    """The encoder of one stream."""
    return _kind(config)(config)
