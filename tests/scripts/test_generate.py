"""The scripts that generate text: every line is answered, whatever the batch."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.targets.test_golden_targets import open_model
from uer.errors import UserError

Run = Callable[..., str]
LINES = ["丁七", "", "万丈三上下不 与", "丁"]


@pytest.fixture
def files(tmp_path: Path, golden: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[object]]:
    """The flags of a tiny model of the original's, by its name."""
    monkeypatch.chdir(tmp_path)
    for name, entries in (("vocab.txt", 120), ("tgt_vocab.txt", 104)):
        words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(0x4E00 + number) for number in range(entries - 5))]
        Path(name).write_text("\n".join(words) + "\n", encoding="utf-8")
    Path("lines.txt").write_text("\n".join(LINES), encoding="utf-8")

    def flags(name: str) -> list[object]:
        torch.save(open_model(golden / "breadth" / "models", name)[0].state_dict(), "model.bin")
        config = json.loads((golden / "breadth" / "models" / f"{name}.json").read_text())["config"]
        Path("config.json").write_text(json.dumps(config))
        return ["--load_model_path", "model.bin", "--vocab_path", "vocab.txt", "--config_path", "config.json",
                "--test_path", "lines.txt", "--prediction_path", "out.txt", "--device", "cpu"]

    return flags


def answers() -> list[str]:
    lines = Path("out.txt").read_text(encoding="utf-8").split("\n")
    assert lines[:-1:2] == LINES and len(lines) == 2 * len(LINES) + 1 and not lines[-1]
    return lines[1::2]


def test_lines_are_continued(run_script: Run, files: Callable) -> None:
    flags = [*files("gpt2_lm"), "--seq_length", 12]
    printed = run_script("generate_lm.py", *flags, "--top_k", 1)
    assert "4 lines answered: out.txt" in printed
    greedy = answers()
    for line, text in zip(LINES, greedy):
        assert text.startswith(line.replace(" ", "")[:11]) and len(text) <= 11
    assert [len(text) for text in greedy] == [11, 11, 11, 11]
    run_script("generate_lm.py", *flags, "--top_k", 70, "--temperature", 2.0)
    drawn = answers()
    assert drawn != greedy
    run_script("generate_lm.py", *flags, "--top_k", 70, "--temperature", 2.0, "--batch_size", 1)
    assert answers() == drawn
    run_script("generate_lm.py", *flags, "--top_k", 70, "--temperature", 2.0, "--seed", 8)
    assert answers() != drawn
    run_script("generate_lm.py", *flags, "--seq_length", 99, "--beam_size", 3)
    assert max(map(len, answers())) == 23  # 24 positions, of which [CLS] has the first


@pytest.mark.parametrize("name", ["t5", "bart", "transformer_mt"])
def test_lines_are_answered_by_a_decoder(run_script: Run, files: Callable, name: str) -> None:
    flags = [*files(name), "--tgt_seq_length", 5, "--top_k", 1]
    if name == "transformer_mt":
        with pytest.raises(UserError, match=r"target side \(--tgt_vocab_path\) has 120 entries, but .* has 104"):
            run_script("generate_seq2seq.py", *flags)
        flags += ["--tgt_vocab_path", "tgt_vocab.txt"]
    run_script("generate_seq2seq.py", *flags)
    found = answers()
    assert all(len(text) <= 5 * len("[MASK]") for text in found) and len(set(found)) > 1
    run_script("generate_seq2seq.py", *flags, "--batch_size", 1)
    assert answers() == found


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """What the scripts give to `generate`; [MASK] is its answer."""
    given: list[list[int]] = []

    def record(model: object, rows: list[list[int]], **_: object) -> list[list[int]]:
        given.extend(rows)
        return [[4] for _ in rows]

    monkeypatch.setattr("uer.generation.generate", record)
    return given


def test_a_prefix_model_answers(run_script: Run, files: Callable, prompts: list[list[int]]) -> None:
    """What follows [SEP] is the answer: `[CLS] 丁 七 [SEP]`."""
    run_script("generate_lm.py", *files("gpt2_lm"), "--mask", "causal_with_prefix", "--seq_length", 6)
    assert [prompt[0] for prompt in prompts] == [2] * 4 and [prompt[-1] for prompt in prompts] == [3] * 4
    assert [2, 6, 8, 3] in prompts and max(map(len, prompts)) == 5
    assert answers() == ["[MASK]"] * 4


def test_names_of_special_tokens_in_a_text_are_these_tokens(run_script: Run, files: Callable,
                                                            prompts: list[list[int]]) -> None:
    flags = files("t5")
    words = Path("vocab.txt").read_text(encoding="utf-8").split()[:118] + ["<extra_id_0>", "<extra_id_1>"]
    Path("vocab.txt").write_text("\n".join(words), encoding="utf-8")
    Path("lines.txt").write_text("丁<extra_id_1>七<extra_id_0>\n[MASK]丁<extra_id_2>", encoding="utf-8")
    run_script("generate_seq2seq.py", *flags, "--tgt_seq_length", 5)
    assert [2, 6, 119, 8, 118, 3] in prompts
    assert any(prompt[:3] == [2, 4, 6] and 118 not in prompt for prompt in prompts)


def test_what_cannot_generate_is_refused(run_script: Run, files: Callable) -> None:
    flags = files("t5")
    with pytest.raises(UserError, match=r"has a decoder: scripts/generate_seq2seq\.py"):
        run_script("generate_lm.py", *flags)
    flags = files("gpt2_lm")
    with pytest.raises(UserError, match=r"has no decoder: scripts/generate_lm\.py"):
        run_script("generate_seq2seq.py", *flags)
    with pytest.raises(UserError, match=r"--temperature must lie between 1e-06 and 1e\+06"):
        run_script("generate_lm.py", *flags, "--temperature", 0)
    with pytest.raises(UserError, match="--test_path and --prediction_path are needed"):
        run_script("generate_lm.py", *flags[:6])
    with pytest.raises(UserError, match="it has no lm head"):
        run_script("generate_lm.py", *files("bert_mlm_sp"), "--no-tie_weights")


def test_how_many_lines_are_answered_is_told_now_and_then(monkeypatch, capsys, root):
    monkeypatch.syspath_prepend(str(root / "scripts"))
    import _generation

    clock = iter([0.0, 5.0, 12.0, 20.0, 33.0])
    monkeypatch.setattr(_generation.time, "monotonic", lambda: next(clock))
    assert list(_generation.shown([[0, 1], [2], [3], [4]], 5)) == [[0, 1], [2], [3], [4]]
    assert capsys.readouterr().err == "3 of 5 lines answered, about 0:00:08 left\n"
