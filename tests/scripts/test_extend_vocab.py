"""scripts/extend_vocab.py through its command line."""

import subprocess

import pytest
import torch

from uer.tokenizers import Vocab

ENTRIES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "中", "国"]


@pytest.fixture
def extend(run_forked, tmp_path):
    (tmp_path / "vocab.txt").write_text("".join(f"{entry}\n" for entry in ENTRIES), encoding="utf-8")

    def run(*flags: str, status: int = 0) -> subprocess.CompletedProcess:
        result = run_forked("scripts/extend_vocab.py", "--vocab_path", tmp_path / "vocab.txt", *flags)
        assert result.returncode == status, result.stderr
        return result

    return run


def checkpoint(rows: int = 9) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    word = torch.randn(rows, 4, generator=generator)
    return {"embedding.word.embedding.weight": word, "target.mlm.linear_2.weight": word,
            "target.mlm.linear_2.bias": torch.randn(rows, generator=generator),
            "encoder.layer.weight": torch.randn(9, 3, generator=generator)}


def test_rows_are_the_means_of_the_pieces(extend, tmp_path):
    before = checkpoint()
    torch.save(before, tmp_path / "model.bin")
    (tmp_path / "add.txt").write_text("ab\n馆\t12\n中\n", encoding="utf-8")
    extend("--add_path", str(tmp_path / "add.txt"), "--add_tokens", "##中国", "ab",
           "--output_vocab_path", str(tmp_path / "new.txt"), "--pretrained_model_path", str(tmp_path / "model.bin"),
           "--output_model_path", str(tmp_path / "new.bin"))
    assert Vocab.load(tmp_path / "new.txt").tokens == [*ENTRIES, "ab", "馆", "##中国"]
    after = torch.load(tmp_path / "new.bin", weights_only=True)
    assert after.keys() == before.keys()
    for name in ("embedding.word.embedding.weight", "target.mlm.linear_2.weight", "target.mlm.linear_2.bias"):
        old, new = before[name], after[name]
        torch.testing.assert_close(new[:9], old, rtol=0, atol=0)
        torch.testing.assert_close(new[9], (old[5] + old[6]) / 2)
        torch.testing.assert_close(new[10], old.mean(0))
        torch.testing.assert_close(new[11], (old[7] + old[8]) / 2)
        assert len(new) == 12
    torch.testing.assert_close(after["encoder.layer.weight"], before["encoder.layer.weight"], rtol=0, atol=0)
    assert (after["embedding.word.embedding.weight"].data_ptr()
            == after["target.mlm.linear_2.weight"].data_ptr()), "tied parameters stay tied"


@pytest.mark.parametrize("name", ["embedding.dual.embedding_1.word.embedding.weight",
                                  "target.bilm.output_layer.weight"])
def test_every_parameter_with_a_row_for_each_entry_grows(extend, tmp_path, name):
    torch.save(checkpoint() | {name: torch.randn(9, 2)}, tmp_path / "model.bin")
    extend("--add_tokens", "馆", "--output_vocab_path", str(tmp_path / "new.txt"), "--pretrained_model_path",
           str(tmp_path / "model.bin"), "--output_model_path", str(tmp_path / "new.bin"))
    assert len(torch.load(tmp_path / "new.bin", weights_only=True)[name]) == 10


def test_suggestions_can_be_added(extend, tmp_path):
    (tmp_path / "corpus.txt").write_text("中馆馆xy 国馆 xy，", encoding="utf-8")
    result = extend("--corpus_path", str(tmp_path / "corpus.txt"), "--suggest", "2")
    assert result.stdout == "馆\t3\nxy\t2\n"
    assert "6 of 8 tokens are unknown" in result.stderr
    (tmp_path / "add.txt").write_text(result.stdout, encoding="utf-8")
    extend("--add_path", str(tmp_path / "add.txt"), "--output_vocab_path", str(tmp_path / "new.txt"))
    assert Vocab.load(tmp_path / "new.txt").tokens[-2:] == ["馆", "xy"]


def test_a_space_is_not_suggested(extend, tmp_path):
    (tmp_path / "corpus.txt").write_text("中 馆 \t国", encoding="utf-8")
    result = extend("--tokenizer", "char", "--corpus_path", str(tmp_path / "corpus.txt"), "--suggest", "1")
    assert result.stdout == "馆\t1\n" and "4 of 6 tokens are unknown" in result.stderr


def test_an_entry_that_no_text_can_become_is_named(extend, tmp_path):
    result = extend("--add_tokens", "馆", "北京", "--output_vocab_path", str(tmp_path / "new.txt"))
    assert "never gives 1 of the new entries: 北京" in result.stderr


def test_a_checkpoint_of_another_vocabulary_is_refused(extend, tmp_path):
    torch.save(checkpoint(rows=13), tmp_path / "model.bin")
    result = extend("--add_tokens", "馆", "--output_vocab_path", str(tmp_path / "new.txt"), "--pretrained_model_path",
                    str(tmp_path / "model.bin"), "--output_model_path", str(tmp_path / "new.bin"), status=2)
    assert "has 13 rows, the vocabulary 9 entries" in result.stderr
    assert not (tmp_path / "new.txt").exists()
    assert not (tmp_path / "new.bin").exists()


@pytest.mark.parametrize("flags", [
    [], ["--suggest", "3"], ["--add_tokens", "x"], ["--add_tokens", "中", "--output_vocab_path", "new.txt"],
    ["--add_tokens", "x", "--output_vocab_path", "new.txt", "--output_model_path", "new.bin"]])
def test_contradictions_are_one_line(extend, flags):
    assert extend(*flags, status=2).stderr.count("\n") == 1
