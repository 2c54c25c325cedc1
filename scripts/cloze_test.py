"""Fill in the masked words of sentences with a pretrained checkpoint, without converting it.

--text "中国的首都是[MASK]京。" prints the most likely words. --test_path is a file with one sentence on each line; in a
sentence without [MASK], one random token is masked, and the predictions are compared with it. The predictions are
written to --prediction_path.
"""

import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from _checkpoint import CheckpointFlags, open_both

from uer import cli
from uer.api.cloze import Cloze, Guess, guess, make_cloze
from uer.api.weights import find_device, has_mlm_head, pretrained_model
from uer.config import ModelConfig, TokenizerConfig, flag
from uer.errors import UserError
from uer.files import atomic_path
from uer.model import Model
from uer.reading import require_regular
from uer.text import amount
from uer.tokenizers import Tokenizer

SHOWN_WORDS = 10
HEADER = "text\tposition\tanswer\tpredictions\n"


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    text: str | None = flag(None, "A sentence with [MASK] in it.")
    test_path: str | None = flag(None, "A file with one sentence on each line.", path="read")
    prediction_path: str | None = flag(None, "Where the predictions for --test_path are written (TSV).",
                                       path="write")
    topn: int | None = flag(None, "Number of words shown for each mask (default: 10).")
    topk: int | None = flag(None, "Another name for --topn.")
    batch_size: int = flag(64, "Sentences of a batch.")
    seq_length: int = flag(128, "Maximum length in tokens; of a longer sentence, the part around the mask is read.")
    seed: int = flag(7, "Seed of the random masks.")

    def problems(self) -> list[str]:
        found = [] if self.text or self.test_path else ["--text or --test_path is needed"]
        if bool(self.test_path) != bool(self.prediction_path):
            found.append("--test_path and --prediction_path belong together")
        if self.topn is not None and self.topk is not None:
            found.append("--topn and --topk are two names of one setting")
        least = {"topn": 1, "topk": 1, "batch_size": 1, "seq_length": 3}
        return found + [f"--{name} must be at least {number}" for name, number in least.items()
                        if getattr(self, name) is not None and getattr(self, name) < number]


def main() -> None:
    flags, source, tokenizer_config, model_config = cli.parse(__doc__, (Flags, CheckpointFlags, TokenizerConfig,
                                                                        ModelConfig))
    weights, config, tokenizer = open_both(source, tokenizer_config, model_config)
    size = len(tokenizer.vocab)
    if not has_mlm_head(weights):
        raise UserError(f"{source.path}: it has no mlm head, which fills in masked words")
    model = pretrained_model(config, size, weights, source.path).to(find_device(source.device))
    flags = replace(flags, seq_length=min(flags.seq_length, config.max_seq_length),
                    topn=min(flags.topn or flags.topk or SHOWN_WORDS, size))
    if flags.text:
        _answer_text(model, tokenizer, flags)
    if flags.test_path:
        _answer_file(model, tokenizer, flags)


def _answer_text(model: Model, tokenizer: Tokenizer, flags: Flags) -> None:
    assert flags.text is not None
    mask = tokenizer.vocab.special_token("mask")
    if mask not in flags.text:
        raise UserError(f"--text has no {mask}")
    cloze = make_cloze(flags.text, tokenizer, flags.seq_length, torch.Generator())
    assert cloze is not None
    print(flags.text)
    answers = guess(model, [cloze], flags.topn)[0]
    for number, answer in enumerate(answers, 1):
        if len(answers) > 1:
            print(f"mask {number}:")
        for token, probability in zip(answer.ids, answer.probabilities):
            print(f"  {tokenizer.vocab.tokens[token]}\t{probability:.5f}")


def _answer_file(model: Model, tokenizer: Tokenizer, flags: Flags) -> None:
    draw = torch.Generator().manual_seed(flags.seed)
    counts = {"sentences": 0, "masked by us": 0, "right": 0, "empty": 0}
    require_regular(flags.test_path, "--test_path")
    with atomic_path(flags.prediction_path) as temporary, open(temporary, "w", encoding="utf-8") as output:
        output.write(HEADER)
        for texts in _batches(_lines(flags.test_path), flags.batch_size):
            made = [make_cloze(text, tokenizer, flags.seq_length, draw) for text in texts]
            clozes = [cloze for cloze in made if cloze is not None]
            counts["empty"] += len(made) - len(clozes)
            for cloze, answers in zip(clozes, guess(model, clozes, flags.topn)):
                counts["sentences"] += 1
                counts["masked by us"] += cloze.answer is not None
                counts["right"] += cloze.answer is not None and cloze.answer == answers[0].ids[0]
                output.writelines(_table_rows(cloze, answers, tokenizer))
    print(f"{amount(counts['sentences'], 'sentence')} answered, {counts['empty']} empty ones skipped: "
          f"{flags.prediction_path}")
    if counts["masked by us"]:
        print(f"of {counts['masked by us']} tokens masked at random, {counts['right']} were guessed first: "
              f"{counts['right'] / counts['masked by us']:.1%}")


def _table_rows(cloze: Cloze, answers: Sequence[Guess], tokenizer: Tokenizer) -> Iterator[str]:
    """One line for each mask: masked sentence, position, original token, predictions with probabilities."""
    tokens = tokenizer.vocab.tokens
    text = tokenizer.decode(cloze.ids[1:-1])
    answer = "" if cloze.answer is None else tokens[cloze.answer]
    for place, found in zip(cloze.positions, answers):
        guesses = " ".join(f"{tokens[token]}:{probability:.4f}" for token, probability in zip(*found))
        yield f"{text}\t{place}\t{answer}\t{guesses}\n"


def _lines(path: str | None) -> Iterator[str]:
    assert path is not None
    try:
        with open(path, encoding="utf-8-sig", errors="replace", newline="\n") as file:
            for line in file:
                yield line.rstrip("\r\n")
    except OSError as error:
        raise UserError(f"--test_path {path}: {error.strerror}") from None


def _batches(lines: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(lines)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


if __name__ == "__main__":
    cli.run(main)
