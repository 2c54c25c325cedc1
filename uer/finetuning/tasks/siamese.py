"""Pairs of texts, each encoded on its own by the same backbone, one label for the pair."""

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import Examples
from uer.finetuning.heads import SiameseClassifier
from uer.finetuning.rows import Ragged, Sequences
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import Classification


class Siamese(Classification):
    """A classification whose example is two rows."""

    name = "siamese"

    def examples(self, path: str, encoder: TextToRows, labelled: bool = True) -> Examples:
        table, targets = self.read(path, labelled)
        if "text_b" not in table:
            raise UserError(f"{path}: no column 'text_b'; a siamese model reads pairs")
        rows = interleave(encoder.sequences(table["text_a"]), encoder.sequences(table["text_b"]))
        return Examples(rows, ways=2, targets=targets, hash=table.hash, skipped=table.skipped)

    def build(self, config: ModelConfig, vocab_size: int) -> SiameseClassifier:
        return SiameseClassifier(config, vocab_size, len(self.labels))


def interleave(first: Sequences, second: Sequences) -> Sequences:
    """Rows 2i and 2i + 1 are row i of the one and of the other."""
    rows = [part.tokens[row] for row in range(len(first)) for part in (first, second)]
    tokens = Ragged.of(rows)
    return Sequences(tokens, tokens.offsets[1:] - tokens.offsets[:-1])
