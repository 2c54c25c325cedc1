"""What somebody writes who adds a processor, a target and an encoder: these would be three files.

The task: of lines `label TAB text`, predict the label at the last token, from the mean of all embedded tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from uer.config import ModelConfig, flag
from uer.data.batch import Batch, Labels, Rows, Side
from uer.data.draws import Draws
from uer.data.processors.base import Block, Lines, Processor
from uer.data.schema import FIELDS, INSTANCE, Column
from uer.encoders.base import Encoder, select
from uer.layers.layout import Layout, Queries
from uer.layers.linear import Linear
from uer.targets.base import ClassTarget

# ---- uer/data/processors/toy.py


@dataclass(frozen=True)
class ToyProcessorConfig:
    """The toy processor"""

    toy_labels_num: int = flag(5, "How many labels there are.")


class ToyBuilder:
    """A line is an instance, cut at `size` tokens."""

    def __init__(self, size: int, labels: int) -> None:
        self.size, self.labels = size, labels
        self.documents = self.blank_lines = self.position = 0

    def add(self, lines: Lines) -> Block:
        labels, text = lines.fields
        rows = [text.ids[begin:min(end, begin + self.size)] for begin, end in zip(text.offsets, text.offsets[1:])]
        kept = [(row, int(label) % self.labels) for row, label in zip(rows, labels) if len(row)]
        sizes = np.array([len(row) for row, _ in kept], np.int64)
        starts = self.position + np.cumsum(sizes) - sizes
        self.documents, self.blank_lines = self.documents + len(kept), self.blank_lines + len(rows) - len(kept)
        self.position += int(sizes.sum())
        return Block({"src": np.concatenate([row for row, _ in kept] or [text.ids[:0]]),
                      "label": np.array([label for _, label in kept], np.uint8)}, {"src": starts})

    def end_file(self) -> Block:
        return Block()

    def finish(self) -> Block:
        return Block()


class ToyProcessor(Processor):
    corpus, fields, field_counts = FIELDS, ("", "src"), (2,)
    labels = ("toy",)
    config_class = ToyProcessorConfig

    def schema(self) -> dict[str, Column]:
        return {"src": Column(), "label": Column(INSTANCE, "uint8")}

    def builder(self, draws: Draws, copies: int = 1) -> ToyBuilder:
        return ToyBuilder(self.seq_length, self.config.toy_labels_num)

    def batch(self, rows: Rows) -> Batch:
        length = rows.lengths["src"][:, None]
        real = torch.arange(self.seq_length, device=length.device) < length
        src = torch.where(real, rows.columns["src"], self.special_id("pad"))
        return Batch(Side(src, real.long()), {"toy": Labels(rows.columns["label"][:, None], length - 1)}, rows.samples)


# ---- uer/targets/toy.py


@dataclass(frozen=True)
class ToyTargetConfig:
    """The toy target"""

    toy_classes: int = flag(5, "How many classes it predicts.")


class ToyTarget(ClassTarget):
    config_class = ToyTargetConfig

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.output = Linear(config.hidden_size, config.of(ToyTargetConfig).toy_classes)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)


# ---- uer/encoders/toy.py


@dataclass(frozen=True)
class ToyEncoderConfig:
    """The toy encoder"""

    toy_scale: float = flag(1.0, "What the mean is multiplied by.")


class ToyEncoder(Encoder):
    """A linear layer of the mean of all tokens up to each."""

    config_class = ToyEncoderConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = config.of(ToyEncoderConfig).toy_scale
        self.linear = Linear(config.emb_size, config.hidden_size)
        self.activation = nn.Tanh()

    def forward(self, embedded: Tensor, layout: Layout, queries: Queries | None = None) -> Tensor:
        rows = layout.scatter(embedded)  # (B, S, E)
        counts = torch.arange(1, rows.shape[1] + 1, device=rows.device)[:, None]
        means = self.scale * rows.cumsum(1) / counts
        return self.activation(self.linear(select(layout.gather(means), queries)))
