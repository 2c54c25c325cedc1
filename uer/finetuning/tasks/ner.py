"""A tag for every word of a text, such as the tags of named entities.

The file is a TSV with the columns `label` and `text_a`: words (in Chinese, characters) with spaces between, and as many
tags. A word that is cut into several tokens is tagged at its first. Rows are [CLS] words [SEP]; words beyond
seq_length count as O when a file is evaluated.

The tags of the training file say how entities are marked: BIO, BIOES, BMES or BILOU, by the letter in front (`B-PER`,
or a bare `B` in word segmentation). Tags without such a letter, such as parts of speech, mark one word each, so that
F1 is the share of right words where there is no O. With --crf_target a conditional random field decides the tags of a
row together.

UER-py's own models have no [CLS] and [SEP] in their rows, and one more output, `[PAD]`, behind those of
--label2id_path. They are read so at inference; a predicted [PAD] is shown as O.
"""

import logging
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import IGNORED, Batch, Examples
from uer.finetuning.config import NerConfig
from uer.finetuning.heads import CrfTagger, Tagger
from uer.finetuning.labels import LabelSet, shorten
from uer.finetuning.metrics import NO_SCHEME, OUTSIDE, SCHEMES, entity_scores, fitting_schemes, split_tag
from uer.finetuning.readers import Table, file_hash, read_json, read_table
from uer.finetuning.rows import Ragged, Sequences, tokenize_all
from uer.finetuning.task import Task, TextToRows
from uer.layers.crf import negative_log_likelihood, pack, viterbi

logger = logging.getLogger("uer.finetuning")

PADDING = "[PAD]"
# Marks of entities that are no prefixes: a letter behind the kind, or another sign than a hyphen.
OTHER_MARKS = re.compile(r".+[-_.][BIEMSLU]|[BIEMSLU][_./].+")


class Ner(Task):
    """Tags of words.

    Args:
        labels: the tags.
        crf: whether a conditional random field decides the tags of a row together.
        scheme: how tags mark entities, a key of `SCHEMES` or NO_SCHEME.
        bare: rows are the words alone, without [CLS] and [SEP], as UER-py's models read them.
        source: where the tags come from, for messages.
    """

    name = "ner"
    metric_names = ("f1", "precision", "recall")
    head_keys = ("output_layer.weight", "output_layer.bias")
    config_class = NerConfig
    infer_config_class = NerConfig

    def __init__(self, labels: LabelSet, crf: bool = False, scheme: str = "BIO", bare: bool = False,
                 source: str = "the training file") -> None:
        self.labels, self.crf, self.scheme, self.bare, self.source = labels, crf, scheme, bare, source
        if crf:
            self.head_keys = (*Ner.head_keys, "crf.start_transitions", "crf.end_transitions", "crf.transitions")

    @classmethod
    def of_training_file(cls, path: str, config: NerConfig, columns: tuple[str, ...] = ()) -> "Ner":
        table = read_table(path, ("label", "text_a"), columns=columns)
        tags = {tag for label in table["label"] for tag in label.split()}
        scheme, source = scheme_of_table(table), "the training file"
        labels = LabelSet.of(tags if scheme == NO_SCHEME else [OUTSIDE, *tags])
        if config.label2id_path:
            labels, source = read_label2id(config.label2id_path), config.label2id_path
            scheme = _scheme_of_both(scheme, tags, labels, source)
        logger.info("Tags are read as %s", "one entity each" if scheme == NO_SCHEME else scheme)
        return cls(labels, config.crf_target, scheme, source=source)

    def examples(self, path: str, encoder: TextToRows, labelled: bool = True) -> Examples:
        if encoder.truncation != "head":
            raise UserError("--truncation: a tagger reads the beginning of a text (head)")
        table = read_table(path, ("label", "text_a") if labelled else ("text_a",), columns=self.columns)
        words = read_words(table)
        tags = read_tags(table, words, self.labels, self.source) if labelled else []
        rows, numbers = encode_words(words, encoder, self.bare)
        targets = {"word": numbers}
        if labelled:
            index = {tag: number for number, tag in enumerate(self.labels.names)}
            targets["tag"] = Ragged.of([
                np.array([index[tags[row][word]] if word >= 0 else IGNORED for word in numbers[row]])
                for row in range(len(tags))])
        return Examples(rows, token_targets=targets, info={"words": [len(row) for row in words], "tags": tags},
                        hash=file_hash(path), skipped=table.skipped)

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return (CrfTagger if self.crf else Tagger)(config, vocab_size, len(self.labels))

    def denominator(self, examples: Examples, chosen: np.ndarray) -> float:
        """How many words of the batch have a tag; with --crf_target, how many rows there are."""
        if self.crf:
            return float(len(chosen))
        return float(max(1, sum((examples.token_targets["tag"][row] != IGNORED).sum() for row in chosen)))

    def loss(self, predicted: Any, batch: Batch) -> Tensor:
        if not self.crf:
            return F.cross_entropy(predicted.flatten(0, 1), batch.targets["tag"].flatten(), ignore_index=IGNORED,
                                   reduction="sum")
        emissions, scores = predicted
        chosen = batch.targets["word"] >= 0
        full = chosen.any(1)
        packed, tags = pack(emissions, chosen)[full], pack(batch.targets["tag"], chosen)[full]
        return negative_log_likelihood(packed, tags.clamp(min=0), chosen.sum(1)[full], scores).sum()

    def outputs(self, predicted: Any, batch: Batch) -> list[np.ndarray]:
        """For each row the numbers of its words' tags."""
        words = batch.targets["word"]
        if self.crf:
            emissions, scores = predicted
            chosen = batch.seg > 0 if self.bare else words >= 0
            chosen = chosen | (torch.arange(words.shape[1], device=words.device) == 0) & ~chosen.any(1, keepdim=True)
            tags, words = viterbi(pack(emissions, chosen), chosen.sum(1), scores), pack(words, chosen)
            words = words.masked_fill(torch.arange(words.shape[1], device=words.device) >= chosen.sum(1)[:, None], -1)
        else:
            tags = predicted.argmax(-1)
        return [row[word >= 0] for row, word in zip(tags.cpu().numpy().astype(np.float32), words.cpu().numpy())]

    def metrics(self, outputs: list[np.ndarray], examples: Examples) -> dict[str, float]:
        return entity_scores(self.tags(outputs, examples), examples.info["tags"], self.scheme)

    def tags(self, outputs: list[np.ndarray], examples: Examples) -> list[list[str]]:
        """The tag of every word; O for [PAD], and for the words beyond seq_length."""
        names = [OUTSIDE if name == PADDING else name for name in self.labels.names]
        return [[names[int(tag)] for tag in output] + [OUTSIDE] * (count - len(output))
                for output, count in zip(outputs, examples.info["words"])]

    def settings(self) -> dict[str, Any]:
        return {"labels": list(self.labels.names), "crf": self.crf, "scheme": self.scheme}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "Ner":
        return cls(LabelSet(tuple(settings["labels"])), settings.get("crf", False), settings.get("scheme", "BIO"))

    def with_flags(self, flags: NerConfig) -> "Ner":
        if flags.label2id_path and read_label2id(flags.label2id_path).names != self.labels.names:
            raise UserError(f"--label2id_path {flags.label2id_path}: the model has other tags, or in another order: "
                            f"{shorten(self.labels.names)}")
        if flags.crf_target and not self.crf:
            raise UserError("--crf_target: the model was trained without it")
        return self

    @classmethod
    def of_weights(cls, labels_num: int | None, flags: NerConfig, state: Mapping[str, Tensor]) -> "Ner":
        """UER-py's model where it has one output more than there are tags, [PAD]; ours, without its settings, else."""
        if not flags.label2id_path:
            raise UserError("--label2id_path is required: there are no settings beside --load_model_path")
        labels, outputs = read_label2id(flags.label2id_path), len(state["output_layer.weight"])
        if outputs - len(labels) not in (0, 1) or labels_num not in (None, outputs, len(labels)):
            raise UserError(f"--label2id_path {flags.label2id_path}: {len(labels)} tags{_asked(labels_num)}, but the "
                            f"model has {outputs} outputs (UER-py's have one more than tags)")
        crf, bare = "crf.transitions" in state, outputs > len(labels)
        if flags.crf_target and not crf:
            raise UserError("--crf_target: --load_model_path was trained without it: it has no crf.transitions")
        return cls(LabelSet((*labels.names, PADDING)) if bare else labels, crf, bare=bare)

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """A TSV of one column: the tags of each row with spaces between."""
        return ["pred_label", *(" ".join(row) for row in self.tags(outputs, examples))]


def _asked(labels_num: int | None) -> str:
    return "" if labels_num is None else f" and --labels_num {labels_num}"


def scheme_of_table(table: Table) -> str:
    """How the tags of a table mark entities: a key of `SCHEMES`, or NO_SCHEME.

    Raises:
        UserError: some tags have prefixes and no scheme has all of them; named by file and line.
    """
    every = {tag for label in table["label"] for tag in label.split()} - {OUTSIDE}
    marked = any(len(tag) > 1 and split_tag(tag)[0] for tag in every)
    bare_letters = all(len(tag) == 1 and tag.isupper() for tag in every) and bool(fitting_schemes(every))
    if not every or not (marked or bare_letters):
        if every and all(OTHER_MARKS.fullmatch(tag) for tag in every):
            raise table.error(0, f"tags such as '{min(every)}': the letter must stand in front, with a hyphen: B-PER")
        return NO_SCHEME if every else "BIO"
    seen: set[str] = set()
    for row, label in enumerate(table["label"]):
        for tag in label.split():
            if tag in seen:
                continue
            before = f" and those before it ({shorten(sorted(seen))})" if seen else ""
            seen.add(tag)
            if not fitting_schemes(seen):
                raise table.error(row, f"tag '{tag}'{before}: not of one scheme of {', '.join(SCHEMES)}")
    return fitting_schemes(seen)[0]


def _scheme_of_both(scheme: str, tags: set[str], labels: LabelSet, path: str) -> str:
    """The scheme of the training file's tags and those of --label2id_path together."""
    if scheme == NO_SCHEME:
        return scheme
    fitting = fitting_schemes({*tags, *labels.names} - {PADDING})
    if not fitting:
        raise UserError(f"--label2id_path {path}: its tags are not all of one scheme ({', '.join(SCHEMES)}): "
                        f"{shorten(labels.names)}")
    return fitting[0]


def read_label2id(path: str) -> LabelSet:
    """The tags of a JSON object from tag to number, in the order of their numbers.

    Raises:
        UserError: it is no such object, or the numbers are not 0, 1, 2, ...
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise UserError(f"--label2id_path {path}: a JSON object from tags to numbers is needed")
    for tag, number in content.items():
        if type(number) is not int or not 0 <= number < len(content):
            raise UserError(f"--label2id_path {path}: the number of '{tag}' must lie between 0 and {len(content) - 1}")
    if len(set(content.values())) < len(content):
        raise UserError(f"--label2id_path {path}: two tags have the same number")
    return LabelSet(tuple(sorted(content, key=content.__getitem__)))


def read_words(table: Table) -> list[list[str]]:
    """The words of every row; a text without spaces is a row of characters."""
    rows = []
    for text in table["text_a"]:
        words = text.split()
        rows.append(list(text.strip()) if len(words) == 1 else words)
    return rows


def read_tags(table: Table, words: list[list[str]], labels: LabelSet, source: str) -> list[list[str]]:
    """The tags of every row.

    Args:
        source: where the labels come from.

    Raises:
        UserError: not one for each word, or one that is not in `labels`; named by file and line.
    """
    rows = []
    for row, label in enumerate(table["label"]):
        tags = label.split()
        if len(tags) != len(words[row]):
            raise table.error(row, f"{len(tags)} tags for {len(words[row])} words")
        for tag in tags:
            if tag not in labels.names:
                raise table.error(row, f"tag '{tag}' is not one of {source}: {shorten(labels.names)}")
        rows.append(tags)
    return rows


def encode_words(words: list[list[str]], encoder: TextToRows, bare: bool = False) -> tuple[Sequences, Ragged]:
    """Rows of tokens, and for each token the number of the word it begins, IGNORED where it begins none.

    A word that the tokenizer drops (a control character) becomes [UNK], so that every word has a token.

    Args:
        bare: without [CLS] and [SEP]; a text without words is one [UNK].
    """
    vocab = encoder.tokenizer.vocab
    pieces = tokenize_all(encoder.tokenizer, [word for row in words for word in row])
    rows, numbers, at = [], [], 0
    for row in words:
        ids, places = ([], []) if bare else ([vocab.cls_id], [IGNORED])
        for number in range(len(row)):
            found = pieces[at + number].tolist() or [vocab.unk_id]
            ids += found
            places += [number] + [IGNORED] * (len(found) - 1)
        at += len(row)
        kept = min(len(ids), encoder.seq_length - (not bare))
        closing = [vocab.unk_id] * (not ids) if bare else [vocab.sep_id]
        rows.append(np.array([*ids[:kept], *closing]))
        numbers.append(np.array([*places[:kept], *[IGNORED] * len(closing)]))
    tokens = Ragged.of(rows)
    return Sequences(tokens, np.diff(tokens.offsets)), Ragged.of(numbers)
