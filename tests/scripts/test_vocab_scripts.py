"""Comparing two vocabularies, and fitting a checkpoint to another one."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from uer.errors import UserError

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
OLD = [*SPECIAL, "中", "国", "京"]
NEW = [*SPECIAL[::-1], "京", "馆", "中", *(f"w{number}" for number in range(500))]
Run = Callable[..., str]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, object]:
    for name, entries in (("old.txt", OLD), ("new.txt", NEW)):
        (tmp_path / name).write_text("".join(f"{entry}\n" for entry in entries), encoding="utf-8")
    draw = torch.Generator().manual_seed(3)
    word = torch.randn(len(OLD), 16, generator=draw)
    torch.save({"embedding.word.embedding.weight": word, "target.mlm.linear_2.weight": word,
                "target.mlm.linear_2.bias": torch.randn(len(OLD), generator=draw),
                "encoder.x.weight": torch.randn(len(OLD), 2, generator=draw)}, tmp_path / "old.bin")
    return {"--old_vocab_path": tmp_path / "old.txt", "--new_vocab_path": tmp_path / "new.txt",
            "--old_model_path": tmp_path / "old.bin", "--new_model_path": tmp_path / "new.bin"}


def words(files: dict[str, object]) -> list[object]:
    return [word for pair in files.items() for word in pair]


def test_sizes_and_differences(run_script: Run, files: dict[str, object], tmp_path: Path) -> None:
    printed = run_script("diff_vocab.py", "--vocab_1", tmp_path / "old.txt", "--vocab_2", tmp_path / "new.txt")
    assert printed.splitlines() == [
        f"vocab_1: {tmp_path / 'old.txt'}, size: 8", f"vocab_2: {tmp_path / 'new.txt'}, size: 508",
        "vocab_1 - vocab_2 = 1", "vocab_2 - vocab_1 = 501"]
    (tmp_path / "old.json").write_text(json.dumps({entry: number for number, entry in enumerate(OLD)}))
    printed = run_script("diff_vocab.py", "--vocab_1", tmp_path / "old.json", "--vocab_2", tmp_path / "old.txt")
    assert printed.splitlines()[2:] == ["vocab_1 - vocab_2 = 0", "vocab_2 - vocab_1 = 0"]


def test_every_entry_of_both_keeps_its_row(run_script: Run, files: dict[str, object], tmp_path: Path) -> None:
    printed = run_script("dynamic_vocab_adapter.py", *words(files))
    assert "7 kept, 501 new; 1 of the old ones are left out" in printed
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("old.bin", "new.bin"))
    assert list(after) == list(before)
    for name in list(before)[:3]:
        assert len(after[name]) == len(NEW)
        for entry in set(OLD) & set(NEW):
            assert torch.equal(after[name][NEW.index(entry)], before[name][OLD.index(entry)])
        assert after[name][8:].std().item() == pytest.approx(0.02, rel=0.1)
    assert torch.equal(after["encoder.x.weight"], before["encoder.x.weight"])
    assert after["target.mlm.linear_2.weight"].data_ptr() == after["embedding.word.embedding.weight"].data_ptr()


def test_no_entry_needs_a_role(run_script: Run, files: dict[str, object], tmp_path: Path) -> None:
    for name, entries in (("old.json", ["a", "<|endoftext|>", *"bcdefg"]), ("new.json", ["<|endoftext|>", "g"])):
        (tmp_path / name).write_text(json.dumps({entry: number for number, entry in enumerate(entries)}))
    run_script("dynamic_vocab_adapter.py", *words({
        **files, "--old_vocab_path": tmp_path / "old.json", "--new_vocab_path": tmp_path / "new.json"}))
    before, after = (torch.load(tmp_path / name, weights_only=True)["embedding.word.embedding.weight"]
                     for name in ("old.bin", "new.bin"))
    assert torch.equal(after, before[[1, 7]])


def test_a_model_of_another_vocabulary_is_refused(run_script: Run, files: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"embedding.word.* has 8 rows, --old_vocab_path 508 entries"):
        run_script("dynamic_vocab_adapter.py", *words({**files, "--old_vocab_path": tmp_path / "new.txt"}))
    torch.save({"encoder.x.weight": torch.zeros(8, 2)}, tmp_path / "old.bin")
    with pytest.raises(UserError, match="no parameter with a row for each entry"):
        run_script("dynamic_vocab_adapter.py", *words(files))
    assert not (tmp_path / "new.bin").exists()
