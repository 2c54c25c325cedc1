"""The words most similar to a word, by the word embedding and in a sentence."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from uer.checkpoint.files import save_weights
from uer.config import ModelConfig
from uer.errors import UserError
from uer.model import build_model

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"中国的首都是北京东南西", "##k", "tok"]
CONFIG = ModelConfig(emb_size=64, hidden_size=64, feedforward_size=37, heads_num=1, layers_num=2, max_seq_length=19,
                     embedding=("word", "pos", "seg"))
Run = Callable[..., str]


@pytest.fixture
def flags(tmp_path: Path) -> list[object]:
    """A small random model with a row of zeros, and its vocabulary."""
    torch.manual_seed(4)
    model = build_model(CONFIG, len(TOKENS))
    model.state_dict()["embedding.word.embedding.weight"][0] = 0
    save_weights(model.state_dict(), tmp_path / "m.bin")
    (tmp_path / "v.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    return ["--load_model_path", tmp_path / "m.bin", "--vocab_path", tmp_path / "v.txt", "--test_path",
            tmp_path / "t.txt", "--device", "cpu"]


def shown(lines: list[str]) -> dict[str, float]:
    return {entry: float(value) for entry, value in (line.split("\t") for line in lines)}


def ranked(own: torch.Tensor, vectors: dict[str, torch.Tensor], count: int) -> dict[str, float]:
    found = {entry: F.cosine_similarity(own, vector, dim=0).item() for entry, vector in vectors.items()}
    return dict(sorted(found.items(), key=lambda item: -item[1])[:count])


def test_by_the_word_embedding(run_script: Run, flags: list[object], tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("京\n\n##k\n", encoding="utf-8")
    printed = run_script("topn_words_indep.py", *flags, "--topn", 3).splitlines()
    rows = dict(zip(TOKENS, torch.load(tmp_path / "m.bin")["embedding.word.embedding.weight"]))
    assert [printed[0], printed[4]] == ["Target word: 京", "Target word: ##k"] and len(printed) == 8
    for word, lines in (("京", printed[1:4]), ("##k", printed[5:])):
        expected = ranked(rows[word], {entry: row for entry, row in rows.items() if entry != word}, 3)
        assert list(shown(lines)) == list(expected)
        assert shown(lines) == pytest.approx(expected, abs=1e-5)
    everything = shown(run_script("topn_words_indep.py", *flags, "--topn", 99).splitlines()[1:len(TOKENS)])
    assert everything["[PAD]"] == 0 and "京" not in everything and len(everything) == len(TOKENS) - 1


def test_in_a_sentence(run_script: Run, flags: list[object], tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("京\t中国的首都是北京\n的\t东的的\n", encoding="utf-8")
    (tmp_path / "c.txt").write_text("南\n西\n京\n西\n中\n", encoding="utf-8")
    printed = run_script("topn_words_dep.py", *flags, "--cand_vocab_path", tmp_path / "c.txt", "--topn", 9,
                         "--batch_size", 2, "--seq_length", 8).splitlines()
    model = build_model(CONFIG, len(TOKENS)).eval()
    model.load_state_dict(torch.load(tmp_path / "m.bin"))

    def hidden(sentence: str, position: int) -> torch.Tensor:
        src = torch.tensor([[TOKENS.index(token) for token in sentence]])
        return model.encode(src, torch.ones_like(src))[0, position].detach()

    assert printed[:2] == ["Target word: 京", "Sentence: 中国的首都是北京"]
    assert printed[5:7] == ["Target word: 的", "Sentence: 东的的"] and len(printed) == 11
    for lines, before, word, after in ((printed[2:5], "中国的首都是北", "京", ""), (printed[7:], "东", "的", "的")):
        candidates = {entry: hidden(before + entry + after, len(before)) for entry in "南西京中" if entry != word}
        expected = ranked(hidden(before + word + after, len(before)), candidates, 9)
        assert shown(lines) == pytest.approx(expected, abs=2e-5)
    assert len(run_script("topn_words_dep.py", *flags, "--topn", 99).splitlines()) == 2 * (len(TOKENS) + 1)


@pytest.mark.parametrize(("script", "text", "message"), [
    ("topn_words_indep.py", "京\n馆\n北京\n", r"the vocabulary lacks: 2 \(line 2: '馆', line 3: '北京'\)"),
    ("topn_words_indep.py", "\n \n", "no word in the file"),
    ("topn_words_dep.py", "京\t北京\n京 北京\n\n京\n", r"without a tab .*: 2 \(line 2: '京 北京', line 4: '京'\)"),
    ("topn_words_dep.py", "北京\t北京\n", r"the vocabulary lacks: 1 \(line 1: '北京'\)"),
    ("topn_words_dep.py", "京\t北京\n京\t东南\n东\t北京北京东\n",
     r"not among the first 4 tokens of the sentence: 2 \(line 2: .*, line 3"),
])
def test_lines_that_do_not_fit_are_counted_and_located(run_script: Run, flags: list[object], tmp_path: Path,
                                                       script: str, text: str, message: str) -> None:
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        run_script(script, *flags, *(["--seq_length", 4] if "_dep" in script else []))


def test_other_vocabularies_are_refused(run_script: Run, flags: list[object], tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("京\t北京\n", encoding="utf-8")
    (tmp_path / "c.txt").write_text("京\n\n馆\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"c.txt: words that the vocabulary lacks: 1 \(line 3: '馆'\)"):
        run_script("topn_words_dep.py", *flags, "--cand_vocab_path", tmp_path / "c.txt")
    (tmp_path / "v.txt").write_text("".join(f"{token}\n" for token in TOKENS[:-1]))
    for script in ("topn_words_indep.py", "topn_words_dep.py"):
        with pytest.raises(UserError, match=r"v.txt has 17 entries, but .*m.bin has 18"):
            run_script(script, *flags)
