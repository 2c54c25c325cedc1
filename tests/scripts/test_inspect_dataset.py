"""What inspect_dataset.py shows."""

import re
from dataclasses import asdict
from difflib import SequenceMatcher

import numpy as np
import pytest

from tests.contract.test_processors import CASES, CHARACTERS, SENTINELS
from tests.tools.datasets import make_dataset
from uer.config import DatasetConfig
from uer.data.build import build_dataset
from uer.data.processors import PROCESSORS
from uer.data.processors.mlm import MlmConfig
from uer.data.schema import Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, save_dataset
from uer.errors import UserError
from uer.tokenizers import BertTokenizer, Vocab
from uer.tokenizers.char import CharTokenizer

ENTRIES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"北京南东的首都是中国", "token", "##s"]
ROWS = [[2, *range(5, 17), 5, 6, 3], [2, 15, 16, 1, 3], [2, 5, 6, 3]]
DOCUMENTS = "北京\n南东\n\n首都\n是中\n"
TOKENS = [token for row in ROWS for token in row]


@pytest.fixture
def vocab_path(tmp_path):
    (tmp_path / "vocab.txt").write_text("".join(f"{entry}\n" for entry in ENTRIES), encoding="utf-8")
    return tmp_path / "vocab.txt"


@pytest.fixture
def dataset_path(tmp_path, vocab_path):
    vocab = Vocab.load(vocab_path)
    known = VocabInfo(vocab.fingerprint, len(vocab), vocab.special_ids, {"kind": "bert"})
    info = DatasetInfo(FORMAT_VERSION, "mlm", 16, {"src": Column()}, {"src": 16}, {"src": known}, asdict(MlmConfig()),
                       True, 1, 7, {"documents": 3}, "preprocess.py --corpus_path a.txt")
    offsets = np.cumsum([0] + [len(row) for row in ROWS])
    save_dataset(tmp_path / "d.pt", info, {"src": np.array(TOKENS)}, {"src": offsets})
    return tmp_path / "d.pt"


def test_metadata_lengths_tokens_and_samples(run_script, dataset_path, vocab_path):
    text = run_script("inspect_dataset.py", dataset_path, "--vocab_path", vocab_path, "--samples_num", 3)
    assert "command             preprocess.py --corpus_path a.txt" in text
    assert "lengths of 3 instances" in text and "16 ████" in text and "1 (33.3%)" in text
    assert f"padding in batches of 16 positions: {1 - 25 / 48:.1%}" in text
    assert f"tokens: {len(TOKENS)}; {len(set(TOKENS))} of 17 entries occur; unknown 1 (4.000%)" in text
    plain = [line.removeprefix("  plain:  ") for line in text.splitlines() if line.startswith("  plain:")]
    assert sorted(plain) == ["[CLS] tokens [UNK] [SEP]", "[CLS] 北京 [SEP]",
                             "[CLS] 北京南东的首都是中国 tokens 北京 [SEP]"]
    masked = [line for line in text.splitlines() if line.startswith("  masked:")]
    assert len(masked) == 3 and all("[MASK]" in line or "‹" in line for line in masked)


def test_without_a_vocabulary_ids_are_shown_and_no_samples(run_script, dataset_path):
    text = run_script("inspect_dataset.py", dataset_path)
    assert "sample" not in text and "commonest: " in text


def test_another_vocabulary_is_refused(run_script, dataset_path, vocab_path):
    vocab_path.write_text("".join(f"{entry}\n" for entry in ["西", *ENTRIES]), encoding="utf-8")
    with pytest.raises(UserError, match="not the vocabulary"):
        run_script("inspect_dataset.py", dataset_path, "--vocab_path", vocab_path)


def shown(run_script, tmp_path, vocab_path, processor, text, **settings):
    """The samples of a dataset of this text: for each a dictionary from the name of a line to what it says."""
    (tmp_path / "corpus.txt").write_text(text, encoding="utf-8")
    config = DatasetConfig(corpus_path=(str(tmp_path / "corpus.txt"),), dataset_path=str(tmp_path / "x.pt"),
                           data_processor=processor, seq_length=12, dynamic_masking=True, members=settings)
    build_dataset(config, {"src": BertTokenizer(Vocab.load(vocab_path))}, note=print)
    printed = run_script("inspect_dataset.py", tmp_path / "x.pt", "--vocab_path", vocab_path, "--samples_num", 8)
    samples = re.split(r"^sample \d+\n", printed, flags=re.MULTILINE)[1:]
    assert len(samples) == 8
    return printed, [dict(re.findall(r"^  ([\w\[\]]+): *(.*)$", sample, re.MULTILINE)) for sample in samples]


def test_pairs_are_shown_in_two_parts_with_their_label(run_script, tmp_path, vocab_path):
    """Of albert: the parts follow one another in the text, in the order that the label says."""
    printed, samples = shown(run_script, tmp_path, vocab_path, "albert", DOCUMENTS, short_seq_prob=0.0)
    assert "split uint16 an instance" in printed
    for sample in samples:
        assert set(sample) == {"first", "second", "masked", "mlm", "sp"}
        first, second = (re.sub(r"\[\w+\]| ", "", sample[name]) for name in ("first", "second"))
        assert (second + first if sample["sp"] == "1" else first + second) in ("北京南东", "首都是中")
        assert sample["first"].startswith("[CLS]") and sample["second"].endswith("[SEP]")
        assert "[MASK]" in sample["masked"] or "‹" in sample["masked"]
    assert {sample["sp"] for sample in samples} == {"0", "1"}


def test_samples_of_bert_name_whether_the_second_part_is_random(run_script, tmp_path, vocab_path):
    _, samples = shown(run_script, tmp_path, vocab_path, "bert", DOCUMENTS, short_seq_prob=0.0)
    for sample in samples:
        first, second = (re.sub(r"\[\w+\]| ", "", sample[name]) for name in ("first", "second"))
        assert ((first + second) in ("北京南东", "首都是中")) == (sample["sp"] == "0")


@pytest.mark.parametrize("processor, expected", [
    ("lm", {"plain": "[CLS] 北京南东 [SEP]", "lm": "0-4 北京南东 [SEP]"}),
    ("bilm", {"plain": "北京南东", "bilm[0]": "0-3 京南东 [SEP]", "bilm[1]": "0-3 [CLS] 北京南"})])
def test_samples_of_language_models_are_their_text(processor, expected, run_script, tmp_path, vocab_path):
    _, samples = shown(run_script, tmp_path, vocab_path, processor, "北京南东\n")
    assert samples == [expected] * 8


def test_a_target_side_has_its_own_vocabulary_and_no_padding(run_script, tmp_path, vocab_path):
    """A full target stores T + 1 = 6 tokens, and the decoder reads 5."""
    theirs = tmp_path / "theirs.txt"
    theirs.write_text("".join(f"{entry}\n" for entry in [*ENTRIES[:5], *"上下左右"]), encoding="utf-8")
    (tmp_path / "mt.txt").write_text("北京\t上下\n南\t左右上下\n", encoding="utf-8")
    tokenizers = {"src": BertTokenizer(Vocab.load(vocab_path)), "tgt": BertTokenizer(Vocab.load(theirs))}
    build_dataset(DatasetConfig(corpus_path=(str(tmp_path / "mt.txt"),), dataset_path=str(tmp_path / "x.pt"),
                                data_processor="mt", seq_length=8, members={"tgt_seq_length": 5}), tokenizers)
    asked = tmp_path / "x.pt", "--vocab_path", vocab_path, "--samples_num", 2
    printed = run_script("inspect_dataset.py", *asked, "--tgt_vocab_path", theirs)
    assert "padding in batches of 5 positions: 10.0%" in printed
    for text in ("  plain:  [CLS] 北京 [SEP]\n  target: [CLS] 上下 [SEP]\n  lm:     target 0-2 上下 [SEP]\n",
                 "  target: [CLS] 左右上下\n  lm:     target 0-4 左右上下 [SEP]\n"):
        assert text in printed
    assert "  target: 2 5 6 3\n  lm:     target 0-2 5 6 3\n" in run_script("inspect_dataset.py", *asked)
    with pytest.raises(UserError, match=r"^--tgt_vocab_path .* is not the vocabulary"):
        run_script("inspect_dataset.py", *asked, "--tgt_vocab_path", vocab_path)


def text_of(line: str) -> str:
    """Without positions and spaces."""
    return re.sub(r"(^|, )[0-9]+(-[0-9]+)? | ", "", line.removeprefix("target "))


@pytest.mark.parametrize("name", CASES)
def test_samples_of_every_processor(name, run_script, tmp_path):
    (tmp_path / "vocab.txt").write_text("".join(f"{entry}\n" for entry in [*ENTRIES[:5], *CHARACTERS, *SENTINELS]),
                                        encoding="utf-8")
    (tmp_path / "corpus.txt").write_text(CASES[name][0](30), encoding="utf-8")
    make_dataset(tmp_path / "d.pt", tmp_path / "corpus.txt", name, CharTokenizer(Vocab.load(tmp_path / "vocab.txt")),
                 seq_length=24)
    printed = run_script("inspect_dataset.py", tmp_path / "d.pt", "--vocab_path", tmp_path / "vocab.txt",
                         "--samples_num", 12)
    samples = [dict(re.findall(r"^  ([\w\[\]]+): *(.*)$", sample, re.MULTILINE))
               for sample in re.split(r"^sample \d+\n", printed, flags=re.MULTILINE)[1:]]
    labels, target, alike = PROCESSORS[name].labels, {"t5", "bart", "gsg", "mt"}, []
    for sample in samples:
        assert ("plain" in sample) != ("first" in sample and "second" in sample)
        assert {label.removesuffix("[0]") for label in sample} >= set(labels)
        assert ("masked" in sample) == ("mlm" in labels) and ("target" in sample) == (name in target)
        assert "[PAD]" not in "".join(sample.values())
        if name in target:  # the decoder predicts what it reads next
            assert f"[CLS]{text_of(sample['lm'])}".startswith(text_of(sample["target"]))
        if name == "t5":
            assert text_of(re.sub("‹<extra_id_.>←(.*?)›", r"\1", sample["source"])) == text_of(sample["plain"])
        if name == "bart":
            parts = re.fullmatch(r"\[CLS\](.*)\[SEP\]", text_of(sample["plain"]))[1].split("|")
            assert text_of(sample["lm"]) == f"{''.join(parts)}[SEP]"
            read = re.fullmatch(r"\[CLS\](.*)\[SEP\]", text_of(sample["source"]))[1]
            order = "".join(parts[int(number) - 1] for number in sample["order"].split())
            assert sorted(order) == sorted("".join(parts))
            read = read.replace("[MASK]", "")
            alike += [SequenceMatcher(None, read, text).ratio() for text in (order, "".join(parts))]
    assert sum(alike[::2]) > sum(alike[1::2]) or name != "bart"  # more like the text in this order than like the plain
    assert len(samples) == 12


def test_padding_of_lm_is_that_of_the_inputs(run_script, tmp_path, vocab_path):
    """A full row stores 13 tokens and has 12 inputs: nothing is padding."""
    printed, _ = shown(run_script, tmp_path, vocab_path, "lm", "北" * 11 + "\n")
    assert "padding in batches of 12 positions: 0.0%" in printed and "1 (100.0%)" in printed
