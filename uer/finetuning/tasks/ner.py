"""A tag for every word of a text: BIO tags of named entities.

The file is a TSV with the columns `label` and `text_a`: words (in Chinese, characters) with spaces between, and as many
tags. A word that is cut into several tokens is tagged at its first. Rows are [CLS] words [SEP]; words beyond
seq_length count as O when a file is evaluated.
"""

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig
from uer.data.batch import Batch
from uer.errors import UserError
from uer.finetuning.batches import IGNORED, Examples
from uer.finetuning.encode import Ragged, Sequences, tokenize_all
from uer.finetuning.heads import Tagger
from uer.finetuning.labels import LabelSet, shorten
from uer.finetuning.metrics import entity_scores
from uer.finetuning.readers import Table, file_hash, read_table
from uer.finetuning.task import Task, TextEncoder

OUTSIDE = "O"


class Ner(Task):
    """Tags of words.

    Args:
        labels: the tags.
    """

    name = "ner"
    metric_names = ("f1", "precision", "recall")
    head_keys = ("output_layer.weight", "output_layer.bias")

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels

    @classmethod
    def of_training_file(cls, path: str, config: Any) -> "Ner":
        table = read_table(path, ("label", "text_a"))
        return cls(LabelSet.of([OUTSIDE, *(tag for label in table["label"] for tag in label.split())]))

    def examples(self, path: str, encoder: TextEncoder, labelled: bool = True) -> Examples:
        if encoder.truncation != "head":
            raise UserError("--truncation: a tagger reads the beginning of a text (head)")
        table = read_table(path, ("label", "text_a") if labelled else ("text_a",))
        words = read_words(table)
        tags = read_tags(table, words, self.labels) if labelled else []
        rows, numbers = encode_words(words, encoder)
        targets = {"word": numbers}
        if labelled:
            index = {tag: number for number, tag in enumerate(self.labels.names)}
            targets["tag"] = Ragged.of([
                np.array([index[tags[row][word]] if word >= 0 else IGNORED for word in numbers[row]])
                for row in range(len(tags))])
        return Examples(rows, token_targets=targets, info={"words": [len(row) for row in words], "tags": tags},
                        hash=file_hash(path), skipped=table.skipped)

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return Tagger(config, vocab_size, len(self.labels))

    def denominator(self, examples: Examples, chosen: np.ndarray) -> float:
        """How many words of the batch have a tag."""
        return float(max(1, sum((examples.token_targets["tag"][row] != IGNORED).sum() for row in chosen)))

    def loss(self, predicted: Tensor, batch: Batch) -> Tensor:
        return F.cross_entropy(predicted.flatten(0, 1), batch.targets["tag"].flatten(), ignore_index=IGNORED,
                               reduction="sum")

    def outputs(self, predicted: Tensor, batch: Batch) -> list[np.ndarray]:
        """For each row the numbers of its words' tags."""
        tags = predicted.argmax(-1).cpu().numpy().astype(np.float32)
        return [row[word >= 0] for row, word in zip(tags, batch.targets["word"].cpu().numpy())]

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        return entity_scores(self.tags(outputs, examples), examples.info["tags"])

    def tags(self, outputs: list[np.ndarray], examples: Examples) -> list[list[str]]:
        """The tag of every word; O for those beyond seq_length."""
        return [[self.labels.names[int(tag)] for tag in output] + [OUTSIDE] * (count - len(output))
                for output, count in zip(outputs, examples.info["words"])]

    def settings(self) -> dict[str, Any]:
        return {"labels": list(self.labels.names)}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Ner":
        return cls(LabelSet(tuple(settings["labels"])))

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """A TSV of one column: the tags of each row with spaces between."""
        return ["pred_label", *(" ".join(row) for row in self.tags(outputs, examples))]


def read_words(table: Table) -> list[list[str]]:
    """The words of every row; a text without spaces is a row of characters."""
    rows = []
    for text in table["text_a"]:
        words = text.split()
        rows.append(list(text.strip()) if len(words) == 1 else words)
    return rows


def read_tags(table: Table, words: list[list[str]], labels: LabelSet) -> list[list[str]]:
    """The tags of every row.

    Raises:
        UserError: not one for each word, or one that the training file lacks; named by file and line.
    """
    rows = []
    for row, label in enumerate(table["label"]):
        tags = label.split()
        if len(tags) != len(words[row]):
            raise table.error(row, f"{len(tags)} tags for {len(words[row])} words")
        for tag in tags:
            if tag not in labels.names:
                raise table.error(row, f"tag '{tag}' is not one of the training file's: {shorten(labels.names)}")
        rows.append(tags)
    return rows


def encode_words(words: list[list[str]], encoder: TextEncoder) -> tuple[Sequences, Ragged]:
    """Rows of tokens, and for each token the number of the word it begins, IGNORED where it begins none.

    A word that the tokenizer drops (a control character) becomes [UNK], so that every word has a token.
    """
    vocab = encoder.tokenizer.vocab
    pieces = tokenize_all(encoder.tokenizer, [word for row in words for word in row])
    rows, numbers, at = [], [], 0
    for row in words:
        ids, places = [vocab.cls_id], [IGNORED]
        for number in range(len(row)):
            found = pieces[at + number].tolist() or [vocab.unk_id]
            ids += found
            places += [number] + [IGNORED] * (len(found) - 1)
        at += len(row)
        kept = min(len(ids), encoder.seq_length - 1)
        rows.append(np.array([*ids[:kept], vocab.sep_id]))
        numbers.append(np.array([*places[:kept], IGNORED]))
    tokens = Ragged.of(rows)
    return Sequences(tokens, np.diff(tokens.offsets)), Ragged.of(numbers)
