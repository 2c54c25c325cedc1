"""Averaging checkpoints."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from uer.checkpoint.files import load_weights, save_weights
from uer.checkpoint.settings import read_settings, write_settings
from uer.config import ModelConfig
from uer.convert.provenance import recorded_stages
from uer.errors import UserError
from uer.finetuning.labels import LabelSet
from uer.finetuning.saved_model import load_settings, save_finetuned
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import Classification
from uer.tokenizers import BertTokenizer, Vocab

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


def test_tied_weights_of_float64_are_added_once(run_script: Run, tmp_path: Path) -> None:
    for name, number in (("a", 1.0), ("b", 3.0)):
        word = torch.full((3, 2), number, dtype=torch.float64)
        save_weights({"word": word, "tied": word}, tmp_path / name)
    run_script("average_models.py", "--model_list_path", tmp_path / "a", tmp_path / "b", "--output_model_path",
               tmp_path / "mean.bin")
    assert all(torch.equal(tensor, torch.full((3, 2), 2.0, dtype=torch.float64))
               for tensor in load_weights(tmp_path / "mean.bin").values())


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


def test_fine_tuned_models_keep_what_they_have_in_common(run_script: Run, tmp_path: Path) -> None:
    tokens = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a")
    encoder = TextToRows(BertTokenizer(Vocab(tokens)), 19)
    for name, labels in (("a", "01"), ("b", "01"), ("other", "10")):
        save_finetuned(tmp_path / f"{name}.bin", {"x": torch.full((2,), 3.0)}, Classification(LabelSet(tuple(labels))),
                       ModelConfig(), encoder, {"seed": name})
    run_script("average_models.py", "--model_list_path", tmp_path / "a.bin", tmp_path / "b.bin", "--output_model_path",
               tmp_path / "mean.bin")
    saved = load_settings(tmp_path / "mean.bin")
    assert saved is not None and saved.task_settings["labels"] == ["0", "1"] and saved.encoder.seq_length == 19
    assert saved.task_settings["training"] == {"averaged": ["a.bin", "b.bin"]}
    for name in ("one", "two"):
        save_finetuned(f"{tmp_path / name}/", {"x": torch.ones(2)}, Classification(LabelSet(("0", "1"))), ModelConfig(),
                       encoder, {})
    run_script("average_models.py", "--model_list_path", tmp_path / "one", f"{tmp_path / 'two'}/",
               "--output_model_path", f"{tmp_path / 'three'}/")
    assert {path.name for path in (tmp_path / "three").iterdir()} == {"model.bin", "model.json", "model.vocab.txt"}
    with pytest.raises(UserError, match=r"would be overwritten"):
        run_script("average_models.py", "--model_list_path", tmp_path / "a.bin", "--output_model_path",
                   tmp_path / "a.vocab.txt")
    with pytest.raises(UserError, match=r"other.bin and .*a.bin were fine-tuned differently: labels$"):
        run_script("average_models.py", "--model_list_path", tmp_path / "a.bin", tmp_path / "other.bin",
                   "--output_model_path", tmp_path / "mean2.bin")


def test_pretrained_models_keep_what_they_have_in_common(run_script: Run, tmp_path: Path) -> None:
    model, common = ModelConfig(heads_num=4, hidden_size=128), {"vocabulary": "ab", "optimizer": "adamw"}
    paths = [save(tmp_path / f"m-{step}", 1.0) for step in (20, 30, 10)]
    flags = ["--model_list_path", *paths, "--output_model_path", tmp_path / "mean.bin"]
    for path, own in zip(paths, ({"seed": 7}, {"seed": 8}, {"seed": 9, "dropout": 0.0})):
        run_script("average_models.py", *flags)
        assert read_settings(tmp_path / "mean.bin") is None  # nothing tells how the others were trained
        write_settings(path, int(path.name[2:]), {**model.values(), **common, **own})
    run_script("average_models.py", *flags)
    (stage,) = recorded_stages(tmp_path / "mean.bin")
    assert stage.step == 30 and stage.model() == model and stage.rows()["Average of"] == "m-20, m-30, m-10"
    assert "seed" not in stage.settings and stage.settings["optimizer"] == "adamw"
    for other, name in (({"heads_num": 2}, "heads_num"), ({"vocabulary": "cd"}, "vocabulary")):
        write_settings(paths[1], 30, {**model.values(), **common, **other})
        with pytest.raises(UserError, match=f"m-30 and .*m-20 are different models: their settings differ in {name}$"):
            run_script("average_models.py", *flags)


def test_an_average_over_another_model_leaves_none_of_its_settings(run_script: Run, tmp_path: Path) -> None:
    encoder = TextToRows(BertTokenizer(Vocab(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))), 19)
    save_finetuned(tmp_path / "mean.bin", {"x": torch.ones(2)}, Classification(LabelSet(("0", "1"))), ModelConfig(),
                   encoder, {})
    write_settings(tmp_path / "mean.bin", 5, ModelConfig().values())
    (tmp_path / "own.json").write_text("{}")
    path = save(tmp_path / "a.bin", 1.0)
    for name in ("mean.bin", "own.bin"):
        run_script("average_models.py", "--model_list_path", path, "--output_model_path", tmp_path / name)
    names = {file.name for file in tmp_path.iterdir() if not file.name.endswith(".lock")}
    assert names == {"a.bin", "mean.bin", "own.bin", "own.json"}


def test_adapters_are_refused(run_script: Run, tmp_path: Path) -> None:
    """A 1 and B 1, A 3 and B 3: the mean of the products is 5, the product of the means 4."""
    paths = [tmp_path / f"{number}.bin" for number in (1, 3)]
    for path in paths:
        factors = {f"layer.lora_{which}": torch.full((1, 1), float(path.stem)) for which in "AB"}
        save_weights(factors, path)
    with pytest.raises(UserError, match=r"1.bin: holds adapters \(LoRA\), not a whole model; .*merge_lora.py"):
        run_script("average_models.py", "--model_list_path", *paths, "--output_model_path", tmp_path / "mean.bin")
    assert not (tmp_path / "mean.bin").exists()
