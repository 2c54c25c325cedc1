"""Averaging checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from uer.checkpoint.files import load_weights, save_weights
from uer.errors import UserError

Run = Callable[..., str]


def save(path: Path, number: float, **others: torch.Tensor) -> Path:
    word = torch.full((3, 2), number)
    save_weights({"word": word, "tied": word, "bias": torch.tensor([number, -number]), **others}, path)
    return path


def test_the_mean_keeps_ties(run_script: Run, tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{number}.bin", float(number)) for number in (1, 2, 6)]
    run_script("average_models.py", "--model_list_path", *paths, "--output_model_path", tmp_path / "mean.bin")
    mean = load_weights(tmp_path / "mean.bin")
    assert list(mean) == ["word", "tied", "bias"]
    assert torch.equal(mean["word"], torch.full((3, 2), 3.0)) and torch.equal(mean["bias"], torch.tensor([3.0, -3.0]))
    assert mean["word"].data_ptr() == mean["tied"].data_ptr()


def test_weights_tied_in_one_checkpoint_only_have_a_mean_each(run_script: Run, tmp_path: Path) -> None:
    paths = [save(tmp_path / "tied.bin", 1.0), save(tmp_path / "untied.bin", 3.0, tied=torch.full((3, 2), 7.0))]
    run_script("average_models.py", "--model_list_path", *paths, "--output_model_path", tmp_path / "mean.bin")
    mean = load_weights(tmp_path / "mean.bin")
    assert torch.equal(mean["word"], torch.full((3, 2), 2.0)) and torch.equal(mean["tied"], torch.full((3, 2), 4.0))


@pytest.mark.parametrize(("others", "message"), [
    ({"more": torch.zeros(1)}, "only one of them has more"),
    ({"bias": torch.zeros(3)}, r"bias is \[3\] in one and \[2\] in the other"),
    ({"bias": torch.zeros(2, dtype=torch.int32)}, "bias holds torch.int32"),
])
def test_different_models_are_refused(run_script: Run, tmp_path: Path, others: dict, message: str) -> None:
    paths = [save(tmp_path / "a.bin", 1.0), save(tmp_path / "b.bin", 2.0, **others)]
    with pytest.raises(UserError, match=message):
        run_script("average_models.py", "--model_list_path", *paths, "--output_model_path", tmp_path / "mean.bin")
    assert not (tmp_path / "mean.bin").exists()
