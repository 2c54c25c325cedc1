"""--push_to_hub of the exports, with a stand-in for huggingface_hub."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from uer.config import ModelConfig
from uer.errors import UserError
from uer.model import build_model

huggingface_hub = pytest.importorskip("huggingface_hub")
Run = Callable[..., str]


class Hub:
    """Keeps what it is asked for; `HfApi` is made without arguments, so that it finds the token itself."""

    def __init__(self, fails: str = "", private: bool = False) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.fails, self.private = fails, private

    def create_repo(self, name: str, **options: Any) -> str:
        self.asked.append((name, options))
        return f"https://hub/{name}"

    def model_info(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private)

    def upload_folder(self, **options: Any) -> None:
        if self.fails:
            raise OSError(self.fails)
        self.asked.append(("upload", options))


@pytest.fixture
def export(run_script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Export a tiny model into the folder `out` with further flags, with this hub."""
    config = ModelConfig(emb_size=64, hidden_size=64, feedforward_size=8, heads_num=1, layers_num=1, max_seq_length=16,
                         embedding=("word", "pos"), mask="causal", layernorm_positioning="pre", target=("lm",),
                         remove_embedding_layernorm=True, tie_weights=True)
    torch.save(build_model(config, 9).state_dict(), tmp_path / "uer.bin")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\nc\nd\n")
    monkeypatch.chdir(tmp_path)

    def run(hub: Hub, *flags: object) -> str:
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
        return run_script("convert_gpt2_from_uer_to_huggingface.py", "--input_model_path", "uer.bin", "--vocab_path",
                          "vocab.txt", "--no_check", *flags)

    return run


def test_weights_of_an_earlier_export_go_and_other_files_stay(export: Callable[..., str]) -> None:
    """transformers would read weights that were divided otherwise."""
    Path("out").mkdir()
    for name in ("model_of_mine.safetensors", "models.safetensors.index.json"):
        Path("out", name).write_text("of the user")
    before = set(Path("out").iterdir())
    export(Hub(), "--output_dir", "out", "--max_shard_size", "1KB")
    divided = {path.name for path in Path("out").glob("model-0*")}
    assert len(divided) > 2 and not Path("out/model.safetensors").exists()
    export(Hub(), "--output_dir", "out")
    left = {path.name for path in Path("out").iterdir()}
    assert not left & {*divided, "model.safetensors.index.json"} and "model.safetensors" in left
    assert all(path.read_text() == "of the user" for path in before)


def test_the_files_of_the_folder_are_sent_and_no_others(export: Callable[..., str]) -> None:
    hub = Hub()
    Path("out").mkdir()
    Path("out/secret.txt").write_text("mine")
    assert "sent: 8 files to https://hub/me/tiny" in export(hub, "--output_dir", "out", "--push_to_hub", "me/tiny")
    (name, made), (_, sent) = hub.asked
    assert (name, made["private"], made["exist_ok"], sent["repo_id"]) == ("me/tiny", False, True, "me/tiny")
    assert set(sent["allow_patterns"]) == {path.name for path in Path("out").iterdir()} - {"secret.txt"}
    assert "# me/tiny" in Path("out/README.md").read_text()


def test_a_dry_run_lists_the_files_with_their_sizes(export: Callable[..., str]) -> None:
    hub = Hub()
    printed = export(hub, "--output_dir", "out", "--push_to_hub", "me/tiny", "--private", "--push_dry_run")
    assert not hub.asked and "nothing is sent; to me/tiny (private" in printed
    listed = {line.split()[1]: int(line.split()[0].replace(",", "")) for line in printed.splitlines()[-8:]}
    assert listed == {path.name: path.stat().st_size for path in Path("out").iterdir()}


def test_a_failure_is_one_line_without_a_token_and_the_folder_stays(export: Callable[..., str]) -> None:
    with pytest.raises(UserError) as error:
        export(Hub("401\nInvalid token hf_abcdefGHIJ12345"), "--output_dir", "out", "--push_to_hub", "me/tiny")
    assert str(error.value) == "--push_to_hub me/tiny failed: 401 Invalid token hf_...; out is complete and stays"
    assert Path("out/model.safetensors").is_file()


def test_a_public_model_is_not_taken_for_a_private_one(export: Callable[..., str]) -> None:
    hub = Hub(private=False)
    with pytest.raises(UserError, match="exists and is public, but --private is given; nothing was sent"):
        export(hub, "--output_dir", "out", "--push_to_hub", "me/tiny", "--private")
    assert [name for name, _ in hub.asked] == ["me/tiny"]
    export(Hub(private=True), "--output_dir", "out", "--push_to_hub", "me/tiny", "--private")


@pytest.mark.parametrize(("flags", "message"), [
    (["--push_to_hub", "me/tiny"], "--output_dir is needed"),
    (["--output_dir", "out", "--push_to_hub", "a/b/c"], "a name is needed such as user/model"),
    (["--output_dir", "out", "--push_dry_run"], "--push_dry_run is for --push_to_hub"),
    (["--output_model_path", "out.bin", "--max_shard_size", "5XB"], "--max_shard_size 5XB: a size such as 5GB"),
    (["--output_dir", "out", "--private"], "--private is for --push_to_hub"),
])
def test_flags_that_do_not_fit_are_refused(export: Callable[..., str], flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        export(Hub(), *flags)
    assert not Path("out").exists()
