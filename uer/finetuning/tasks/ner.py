"""Sequence labelling: a tag for every word of a text, such as the tags of named entities.

The file is a TSV with the columns `label` and `text_a`: words (in Chinese, characters) separated by spaces, and as many
tags; or a CoNLL file with a word and its tag on every line (`uer.finetuning.conll`). A text without spaces is read
character by character, unless it is in a script such as Latin, or has one tag: then it is one word. If the tokenizer
splits a word, its first token has the tag. Rows are [CLS] words [SEP]. A text that is longer than a row is cut into
windows that overlap by up to a quarter; the tags of the first half of an overlap are those of the earlier window.

The tags of the training file show which label scheme it uses: BIO, BIOES, BMES or BILOU, by the letter in front
(`B-PER`, or `B` alone in word segmentation). The entity 北京 of the text 我 在 北 京 is, in these schemes,

    BIO             O O B-LOC I-LOC
    BIOES           O O B-LOC E-LOC
    BMES            O O B-LOC E-LOC
    BILOU           O O B-LOC L-LOC

Tags without such a letter, such as parts of speech, mark one word each; if there is no O, F1 is then the accuracy over
words. With --crf_target a conditional random field scores the tags of a row together.

UER-py's own models have no [CLS] and [SEP] in their rows, and one more output, `[PAD]`, after those of
--label2id_path. Inference reads such weights too; a predicted [PAD] is written as O.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig
from uer.errors import UserError
from uer.finetuning.batches import IGNORED, Batch, Examples
from uer.finetuning.config import NerConfig
from uer.finetuning.conll import read_conll
from uer.finetuning.heads import CrfTagger, Tagger
from uer.finetuning.inputs import Prediction
from uer.finetuning.labels import LabelSet, shorten
from uer.finetuning.metrics import NO_SCHEME, OUTSIDE, SCHEMES, entity_scores, fitting_schemes, split_tag
from uer.finetuning.readers import Table, read_json, read_table
from uer.finetuning.rows import Ragged, Sequences, tokenize_all
from uer.finetuning.table_task import TableTask
from uer.finetuning.task import InputFile, TextToRows
from uer.layers.crf import negative_log_likelihood, pack, viterbi
from uer.text import amount

logger = logging.getLogger("uer.finetuning")

PADDING = "[PAD]"
# Texts in scripts that put spaces between words: Latin, Greek, Cyrillic, Arabic and others, with their signs.
SPACED_SCRIPTS = re.compile(r"[\u0000-\u0dff\u1e00-\u2e7f]*")
# Marks of entities that are no prefixes: a letter after the kind, or another sign than a hyphen.
OTHER_MARKS = re.compile(r".+[-_.][BIEMSLU]|[BIEMSLU][_./].+")


class Ner(TableTask):
    """Predicts a tag for each word.

    Args:
        labels: the T tags; output t of the model stands for `labels.names[t]`.
        crf: whether a conditional random field scores the tags of a row together.
        scheme: the label scheme, a key of `SCHEMES` or NO_SCHEME.
        bare: rows are the words alone, without [CLS] and [SEP], as UER-py's models read them.
        source: the file that lists the tags, for messages.
    """

    name = "ner"
    metric_names = ("f1", "precision", "recall")
    config_class = NerConfig
    infer_config_class = NerConfig
    optional_columns = ()

    def __init__(self, labels: LabelSet, crf: bool = False, scheme: str = "BIO", bare: bool = False,
                 source: str = "the training file") -> None:
        self.labels, self.crf, self.scheme, self.bare, self.source = labels, crf, scheme, bare, source

    @classmethod
    def of_training_file(cls, path: str, config: NerConfig, columns: tuple[str, ...] = ()) -> "Ner":
        table, _ = read_sentences(path, True, columns)
        tags = {tag for label in table["label"] for tag in label.split()}
        scheme, source = scheme_of_table(table), "the training file"
        labels = LabelSet.of(tags if scheme == NO_SCHEME else [OUTSIDE, *tags])
        if config.label2id_path:
            labels, source = read_label2id(config.label2id_path), config.label2id_path
            scheme = _scheme_of_both(scheme, tags, labels, source)
        logger.info("Tags are read as %s", "one entity each" if scheme == NO_SCHEME else scheme)
        return cls(labels, config.crf_target, scheme, source=source)

    def examples(self, path: str, encoder: TextToRows, labelled: bool = True) -> Examples:
        table, words = read_sentences(path, labelled, self.columns)
        return replace(self.of_sentences(table, words, encoder, labelled), hash=table.hash, skipped=table.skipped)

    def inputs(self, path: str, encoder: TextToRows) -> InputFile:
        """As `TableTask.inputs`; a CoNLL file is one piece."""
        found = None if self.columns else read_conll(path, False)
        if found is None:
            return super().inputs(path, encoder)
        examples = self.of_sentences(*found, encoder, False)
        return InputFile(self.inputs_num(examples), Counter(), [examples])

    def of_table(self, table: Table, encoder: TextToRows, labelled: bool) -> Examples:
        return self.of_sentences(table, words_of(table), encoder, labelled)

    def of_sentences(self, table: Table, words: list[list[str]], encoder: TextToRows, labelled: bool) -> Examples:
        """The examples of a table whose rows have these words, with the target `tag` where it is `labelled`."""
        if encoder.truncation != "head":
            raise UserError("--truncation: a tagger reads the beginning of a text (head)")
        tags = read_tags(table, words, self.labels, self.source) if labelled else []
        rows, numbers, windows = encode_words(words, encoder, self.bare)
        targets = {"word": numbers}
        if labelled:
            index = {tag: number for number, tag in enumerate(self.labels.names)}
            targets["tag"] = Ragged.of([
                np.array([index[tags[row][word]] if word >= 0 else IGNORED for word in numbers[window]])
                for window, (row, _) in enumerate(windows)])
        return Examples(rows, token_targets=targets, info={"windows": windows, "tags": tags})

    def build(self, config: ModelConfig, vocab_size: int) -> nn.Module:
        return (CrfTagger if self.crf else Tagger)(config, vocab_size, len(self.labels))

    def denominator(self, examples: Examples, chosen: np.ndarray) -> float:
        """The number of words of the batch that have a tag; with --crf_target, the number of rows."""
        if self.crf:
            return float(len(chosen))
        return float(max(1, sum((examples.token_targets["tag"][row] != IGNORED).sum() for row in chosen)))

    def loss(self, predicted: Any, batch: Batch) -> Tensor:
        """Cross-entropy summed over words; with --crf_target, the negative log-likelihood summed over rows.

        Args:
            predicted: logits (B, S, T); of a CrfTagger, emissions (B, S, T) and the scores of the field.
            batch: targets `tag` and `word` (B, S): the tag of a word at its first token, and the word's number there;
                IGNORED elsewhere.
        """
        if not self.crf:
            return F.cross_entropy(predicted.flatten(0, 1), batch.targets["tag"].flatten(), ignore_index=IGNORED,
                                   reduction="sum")
        emissions, scores = predicted
        # The field reads one position for each word: pack moves them to the beginning of the row, (B, words, T).
        chosen = batch.targets["word"] >= 0
        full = chosen.any(1)  # a row without words has no likelihood
        packed, tags = pack(emissions, chosen)[full], pack(batch.targets["tag"], chosen)[full]
        return negative_log_likelihood(packed, tags.clamp(min=0), chosen.sum(1)[full], scores).sum()

    def outputs(self, predicted: Any, batch: Batch) -> list[np.ndarray]:
        """For each row the numbers of its words' tags, float32 (words,).

        Args:
            predicted, batch: as in `loss`, without `tag`.
        """
        words = batch.targets["word"]
        if self.crf:
            emissions, scores = predicted
            # UER-py's field reads every token, ours the first token of each word; a row needs at least one position.
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
        """The tags of every word of each text; O for [PAD].

        Two windows with words 0 to 7 and 6 to 9 share 6 and 7: the first tags 0 to 6, the second 7 to 9.
        """
        names = [OUTSIDE if name == PADDING else name for name in self.labels.names]
        found: list[list[str]] = []
        for output, (row, first) in zip(outputs, examples.info["windows"]):
            if row == len(found):
                found.append([])
            border = (len(found[row]) + first) // 2
            found[row][border:] = [names[int(tag)] for tag in output[border - first:]]
        return found

    def inputs_num(self, examples: Examples) -> int:
        return len({row for row, _ in examples.info["windows"]})

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
        """Create the task: with one output more than tags, [PAD], the weights are UER-py's; else ours without settings.

        Raises:
            UserError: --label2id_path is missing or does not fit the number of outputs.
        """
        if "output_layer.weight" not in state:
            raise UserError("--load_model_path: not a fine-tuned model of the task 'ner': it has no "
                            "output_layer.weight")
        if not flags.label2id_path:
            raise UserError("--label2id_path is required: there is no settings file beside --load_model_path")
        labels, outputs = read_label2id(flags.label2id_path), len(state["output_layer.weight"])
        if outputs - len(labels) not in (0, 1) or labels_num not in (None, outputs, len(labels)):
            raise UserError(f"--label2id_path {flags.label2id_path}: {len(labels)} tags{_asked(labels_num)}, but the "
                            f"model has {outputs} outputs (UER-py's have one more than tags)")
        crf, bare = "crf.transitions" in state, outputs > len(labels)
        if flags.crf_target and not crf:
            raise UserError("--crf_target: --load_model_path was trained without it: it has no crf.transitions")
        return cls(LabelSet((*labels.names, PADDING)) if bare else labels, crf, bare=bare)

    def predictions(self, outputs: list[np.ndarray], examples: Examples, logits: bool, prob: bool) -> list[str]:
        """A TSV of one column: the tags of each row, separated by spaces."""
        return ["pred_label", *(" ".join(row) for row in self.tags(outputs, examples))]

    def input_examples(self, inputs: Sequence[Any], encoder: TextToRows) -> Examples:
        words = [split_words(item, at) for at, item in enumerate(inputs)]
        rows, numbers, windows = encode_words(words, encoder, self.bare)
        return Examples(rows, token_targets={"word": numbers},
                        info={"windows": windows, "tags": [], "texts": words})

    def input_predictions(self, outputs: list[np.ndarray], examples: Examples,
                          inputs: Sequence[Any]) -> list[Prediction]:
        return [Prediction(tuple(tags), words=tuple(words))
                for tags, words in zip(self.tags(outputs, examples), examples.info["texts"])]


def split_words(item: str | Sequence[str], at: int) -> list[str]:
    """The words of a text: in one without spaces every character is a word, unless its script puts spaces between
    words.

    >>> split_words("北京", 0), split_words("New York", 0), split_words("London", 0)
    (['北', '京'], ['New', 'York'], ['London'])

    Args:
        item: a text or a list of words.
        at: number of the input, for the message.

    Raises:
        UserError: it is neither of them.
    """
    if not isinstance(item, str):
        if not isinstance(item, Sequence) or not all(isinstance(word, str) and word.strip() for word in item):
            raise UserError(f"predict: input {at} must be a text or a list of words")
        return list(item)
    words = item.split()
    return words if SPACED_SCRIPTS.fullmatch(item) else characters_of(words)


def characters_of(words: list[str]) -> list[str]:
    """The characters of a text that has no spaces; the words of another."""
    return list(words[0]) if len(words) == 1 else words


def _asked(labels_num: int | None) -> str:
    return "" if labels_num is None else f" and --labels_num {labels_num}"


def scheme_of_table(table: Table) -> str:
    """The label scheme of a table's tags: a key of `SCHEMES`, or NO_SCHEME.

    B-PER, I-PER and O are BIO; with S-LOC among them BIOES; n, v and O are NO_SCHEME.

    Raises:
        UserError: some tags have prefixes but no scheme has all of them; named by file and line.
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


def read_sentences(path: str, labelled: bool, columns: Sequence[str]) -> tuple[Table, list[list[str]]]:
    """The table of a TSV, of JSON lines or of a CoNLL file, and the words of its rows."""
    found = None if columns else read_conll(path, labelled)
    if found is None:
        table = read_table(path, ("label", "text_a") if labelled else ("text_a",), columns=columns)
        found = table, words_of(table)
    return found


def words_of(table: Table) -> list[list[str]]:
    """The words of each row: those with spaces between or, where there are no spaces and another number of tags, its
    characters. Without tags see `split_words`."""
    if "label" not in table:
        return [split_words(text, row) for row, text in enumerate(table["text_a"])]
    return [text.split() if len(text.split()) == len(label.split()) else characters_of(text.split())
            for text, label in zip(table["text_a"], table["label"])]


def read_tags(table: Table, words: list[list[str]], labels: LabelSet, source: str) -> list[list[str]]:
    """The tags of every row, one for each word.

    Args:
        source: the file that lists the labels, for messages.

    Raises:
        UserError: another number of tags than words, or a tag that is not in `labels`; named by file and line.
    """
    rows, known = [], set(labels.names)
    for row, label in enumerate(table["label"]):
        tags = label.split()
        if len(tags) != len(words[row]):
            raise table.error(row, f"{amount(len(tags), 'tag')} for {amount(len(words[row]), 'word')}")
        for tag in tags:
            if tag not in known:
                raise table.error(row, f"tag '{tag}' is not one of {source}: {shorten(labels.names)}")
        rows.append(tags)
    return rows


def encode_words(words: list[list[str]], encoder: TextToRows,
                 bare: bool = False) -> tuple[Sequences, Ragged, list[tuple[int, int]]]:
    """Rows of token ids, and for each token the number of the word whose first token it is, else IGNORED.

    The words 我, playing, 球, of which the tokenizer splits the second, become

        tokens   [CLS]  我  play  ##ing  球  [SEP]
        numbers   -100   0     1   -100   2   -100

    A word that the tokenizer removes (a control character) becomes [UNK], so that every word has a token. Of a word
    with more tokens than a row, the first are read.

    Args:
        words: the words of each text.
        bare: without [CLS] and [SEP]; a text without words becomes one [UNK].

    Returns:
        The rows, one or more for each text; the numbers, as many values in each row as it has tokens; and for each
        row the number of its text and of its first word.
    """
    vocab = encoder.tokenizer.vocab
    pieces = tokenize_all(encoder.tokenizer, [word for row in words for word in row])
    room = encoder.seq_length - 2 * (not bare)
    rows, numbers, windows, at = [], [], [], 0
    for row, own in enumerate(words):
        found = [pieces[at + number].tolist()[:room] or [vocab.unk_id] for number in range(len(own))]
        at += len(own)
        for first, last in word_windows([len(ids) for ids in found], room):
            ids = [token for word in found[first:last] for token in word]
            starts = [value for word in range(first, last) for value in (word, *[IGNORED] * (len(found[word]) - 1))]
            if bare:
                ids, starts = ids or [vocab.unk_id], starts or [IGNORED]
            else:
                ids, starts = [vocab.cls_id, *ids, vocab.sep_id], [IGNORED, *starts, IGNORED]
            rows.append(np.array(ids))
            numbers.append(np.array(starts))
            windows.append((row, first))
    tokens = Ragged.of(rows)
    return Sequences(tokens, np.diff(tokens.offsets)), Ragged.of(numbers), windows


def word_windows(sizes: Sequence[int], room: int) -> list[tuple[int, int]]:
    """The windows of a text, each the words first .. last - 1; together they have every word.

    A window begins with the last words of the one before it, as far as these have at most a quarter of its tokens.

    >>> word_windows([1] * 10, 8)
    [(0, 8), (6, 10)]

    Args:
        sizes: the number of tokens of each word, at most `room`.
        room: how many tokens a window may have.
    """
    found, first = [], 0
    while True:
        last, total = first, 0
        while last < len(sizes) and total + sizes[last] <= room:
            total += sizes[last]
            last += 1
        found.append((first, last))
        if last == len(sizes):
            return found
        first, shared = last, 0
        while first > found[-1][0] + 1 and shared + sizes[first - 1] <= min(room // 4, room - sizes[last]):
            first -= 1
            shared += sizes[first]
