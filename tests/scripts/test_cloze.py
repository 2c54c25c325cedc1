"""The cloze script: answers to a sentence, and to a file."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from uer.errors import UserError

Run = Callable[..., str]


@pytest.fixture
def model_flags(golden: Path, google_vocab: Path) -> list[object]:
    return ["--load_model_path", golden / "original_tiny_300steps.bin", "--vocab_path", google_vocab]


def test_answers_are_the_original_s(run_script: Run, model_flags: list[object], golden: Path) -> None:
    """To within what its other layer norm changes."""
    expected = json.loads((golden / "original_tiny_expected.json").read_text())
    printed = run_script("cloze_test.py", *model_flags, "--text", expected["text"], "--topk", 4).splitlines()
    assert printed[0] == expected["text"] and len(printed) == 5
    for line, entry in zip(printed[1:], expected["top10"]):
        token, probability = line.strip().split("\t")
        assert token == entry["token"] and float(probability) == pytest.approx(entry["prob"], rel=0.1)


def test_a_file_is_answered_line_by_line(run_script: Run, model_flags: list[object], tmp_path: Path) -> None:
    lines = ["他在[MASK]京上[MASK]。", "", "今天天气很好，我们去公园玩。", "长" * 300 + "[MASK]"]
    (tmp_path / "t.txt").write_text("\n".join(lines), encoding="utf-8")
    arguments = [*model_flags, "--test_path", tmp_path / "t.txt", "--prediction_path", tmp_path / "p.tsv", "--topk", 2,
                 "--batch_size", 2, "--seq_length", 32]
    printed = run_script("cloze_test.py", *arguments)
    assert "3 sentences answered, 1 empty ones skipped" in printed and "of 1 tokens masked at random" in printed
    header, *rows = [line.split("\t") for line in (tmp_path / "p.tsv").read_text(encoding="utf-8").splitlines()]
    assert header == ["text", "position", "answer", "predictions"]
    assert [row[:3] for row in rows[:2]] == [["他在[MASK]京上[MASK]。", "3", ""], ["他在[MASK]京上[MASK]。", "6", ""]]
    assert rows[2][0].replace("[MASK]", rows[2][2]) == lines[2] and rows[3][0] == "长" * 29 + "[MASK]"
    assert all(re.fullmatch(r"\S+:0\.\d{4} \S+:0\.\d{4}", row[3]) for row in rows)
    first = (tmp_path / "p.tsv").read_bytes()
    run_script("cloze_test.py", *arguments)
    assert (tmp_path / "p.tsv").read_bytes() == first


def test_the_mask_has_the_name_that_the_vocabulary_gives_it(run_script: Run, model_flags: list[object],
                                                            google_vocab: Path, tmp_path: Path) -> None:
    entries = google_vocab.read_text(encoding="utf-8").replace("[MASK]", "<mask>")
    (tmp_path / "v.txt").write_text(entries, encoding="utf-8")
    (tmp_path / "special_tokens_map.json").write_text('{"mask_token": "<mask>"}')
    flags = [*model_flags[:2], "--vocab_path", tmp_path / "v.txt", "--topn", 3]
    expected = run_script("cloze_test.py", *model_flags, "--topn", 3, "--text", "北[MASK]。")
    assert run_script("cloze_test.py", *flags, "--text", "北<mask>。").splitlines()[1:] == expected.splitlines()[1:]
    with pytest.raises(UserError, match="--text has no <mask>"):
        run_script("cloze_test.py", *flags, "--text", "北[MASK]。")


def test_flags_of_uer_py(run_script: Run, model_flags: list[object]) -> None:
    """--topn, and those of the architecture, which change what the checkpoint tells."""
    flags = [*model_flags, "--text", "北[MASK]"]
    printed = run_script("cloze_test.py", *flags, "--topn", 3)
    assert len(printed.splitlines()) == 4
    assert run_script("cloze_test.py", *flags, "--topk", 3) == printed
    assert run_script("cloze_test.py", *flags, "--topn", 3, "--hidden_act", "relu") != printed


@pytest.mark.parametrize(("arguments", "message"), [
    (["--text", "[MASK]", "--topn", "1", "--topk", "2"], "--topn and --topk are two names"),
    (["--text", "[MASK]", "--layers_num", "3"], "parameters do not fit this model"),
    ([], "--text or --test_path is needed"),
    (["--text", "没有"], r"--text has no \[MASK\]"),
    (["--test_path", "x"], "--test_path and --prediction_path belong together"),
    (["--text", "[MASK]", "--config_path", "models/bert/mini_config.json"], "parameters do not fit this model"),
])
def test_bad_settings_are_refused(run_script: Run, model_flags: list[object], arguments: list[str], message: str,
                                  root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match=message):
        run_script("cloze_test.py", *model_flags, *arguments)
