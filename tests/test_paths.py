"""Files that a command reads or writes beyond the names on its command line (see also tests/contract/test_paths.py)."""

from pathlib import Path

import pytest

from uer import cli
from uer.config import DistillationConfig, LogConfig, TokenizerConfig, TrainConfig
from uer.errors import UserError
from uer.family.config import FamilyConfig
from uer.finetuning.config import CrossValidationConfig, FinetuneConfig, FoldsConfig, GridConfig, InferConfig
from uer.paths import files_behind
from uer.runtime.lock import OutputLock

TRAINING = (TrainConfig, TokenizerConfig, LogConfig, DistillationConfig)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("m.bin-4", "m.bin-5", "o.json", "o-fold_1.json", "v.txt", "special_tokens_map.json", "c.json",
                 "o.grid.jsonl", "f-fold_2.bin", "f-fold_2.json", "corpus.txt"):
        Path(name).write_text("{}")
    Path("family/datasets").mkdir(parents=True)
    Path("family/datasets/seq128.pt").write_text("x")


def refused(sections: tuple[type, ...], *argv: str) -> str:
    with pytest.raises(UserError) as caught:
        cli.parse("", sections, argv)
    return str(caught.value)


@pytest.mark.parametrize("flags", [
    "--pretrained_model_path m.bin-4 --total_steps 4",
    "--pretrained_model_path m.bin-4 --total_steps 9 --save_checkpoint_steps 2",
    "--teacher_model_path m.bin-4 --teacher_config_path c.json --total_steps 4",
    "--pretrained_model_path ./nothing/../m.bin-4 --total_steps 4",
])
def test_a_checkpoint_that_this_run_would_write_is_no_input(flags: str) -> None:
    Path("nothing").mkdir()
    message = refused(TRAINING, *["--output_model_path", "m.bin", "--config_path", "c.json"], *flags.split())
    assert "--output_model_path: m.bin-4" in message and "would be overwritten" in message


def test_a_step_that_is_never_written_may_be_the_start() -> None:
    flags = ("--output_model_path m.bin --config_path c.json --pretrained_model_path m.bin-5 --total_steps 8 "
             "--save_checkpoint_steps 4")
    cli.parse("", TRAINING, flags.split())


def test_a_folder_is_no_beginning_of_names(tmp_path: Path) -> None:
    for path in ("family", "new/"):
        assert "is a folder" in refused(TRAINING, "--output_model_path", path, "--config_path", "c.json")


@pytest.mark.parametrize(("sections", "flags", "named"), [
    ((FinetuneConfig,), "--train_path t --dev_path d --config_path o.json --output_model_path o.bin", "o.json"),
    ((FinetuneConfig, GridConfig), "--train_path o.grid.jsonl --dev_path d --config_path c.json --output_model_path "
                                   "o.bin", "o.grid.jsonl"),
    ((CrossValidationConfig,), "--train_path o-fold_1.json --config_path c.json --output_model_path o.bin",
     "o-fold_1.json"),
    ((InferConfig,), "--load_model_path o.bin --test_path t --prediction_path o.json", "o.json"),
    ((InferConfig, FoldsConfig), "--load_model_path f.bin --test_path t --prediction_path f-fold_2.json",
     "f-fold_2.json"),
    (TRAINING, "--output_model_path x --config_path c.json --vocab_path v.txt --log_path special_tokens_map.json",
     "special_tokens_map.json"),
    ((FamilyConfig,), "--corpus_path family/datasets --output_dir family", "family/datasets/seq128.pt"),
])
def test_names_that_follow_from_a_flag(sections: tuple[type, ...], flags: str, named: str) -> None:
    message = refused(sections, *flags.split())
    assert named in message and "would be overwritten" in message


@pytest.mark.parametrize("name", ["model.bin", "model.vocab.txt", "pytorch_model-00001-of-00002.bin", "config.json",
                                  "model.safetensors", "tokenizer.json", "sentencepiece.bpe.model"])
def test_a_model_s_folder_may_hold_predictions(name: str) -> None:
    Path("folder").mkdir()
    for file in (name, "p.tsv"):
        Path("folder", file).write_text("x")
    flags = ("--load_model_path", "folder", "--test_path", "corpus.txt", "--prediction_path")
    cli.parse("", (InferConfig,), (*flags, "folder/p.tsv"))  # of an earlier command
    assert "is read by this command (--load_model_path)" in refused((InferConfig,), *flags, f"folder/{name}")


def test_the_files_of_a_corpus(tmp_path: Path) -> None:
    (tmp_path / "family" / "a.txt").write_text("a")
    assert files_behind(["family", "*.txt"]) == ["family/a.txt", "family/datasets/seq128.pt", "corpus.txt", "v.txt"]


def test_a_lock_leaves_a_file_of_its_name_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "m.bin.lock"
    own.write_text("mine")
    with OutputLock("m.bin"), pytest.raises(UserError, match=r"--output_dir .*another run"):
        OutputLock(tmp_path / "m.bin", "--output_dir", patience=0.0)
    assert own.read_text() == "mine"
    own.unlink()
    with OutputLock("m.bin"):
        assert own.exists()
    assert not own.exists()
