"""Files of both sides: shards, damage, folders that appear whole, the tokenizer's description, the model card."""

import json
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from uer.checkpoint import files as checkpoint
from uer.checkpoint.settings import settings_path, write_settings
from uer.config import ModelConfig, OptimConfig
from uer.convert import ARCHITECTURES
from uer.convert.hugging_face_files import (
    bytes_of,
    read_hugging_face,
    weights_files,
    write_json,
    write_safetensors,
    write_weights,
)
from uer.convert.model_card import ModelCardFacts, model_card
from uer.convert.provenance import recorded_stages
from uer.convert.tokenizer_files import read_tokens
from uer.convert.tokenizer_writing import write_tokenizer
from uer.errors import UserError
from uer.files import atomic_folder
from uer.tokenizers import BertTokenizer, Vocab

SPECIAL = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
           "mask_token": "[MASK]"}
BERT, MODERNBERT = ARCHITECTURES["bert"], ARCHITECTURES["modernbert"]
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "北", "京", "token", "##s", "cafe", "，", "\u2028"]


def test_safetensors_are_marked_as_pytorchs_and_readable_by_others(tmp_path: Path) -> None:
    write_json({}, tmp_path / "config.json")
    write_safetensors({"a": torch.arange(6.0).view(2, 3)}, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"} and torch.equal(file.get_tensor("a"), torch.arange(6.0).view(2, 3))
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "config.json").stat().st_mode


def test_weights_divided_into_files_are_read_by_transformers(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
                                 intermediate_size=12, max_position_embeddings=9))
    weights = model.state_dict()
    write_weights(weights, tmp_path, max_shard_bytes=1000)
    model.config.save_pretrained(tmp_path)
    files = weights_files(tmp_path)
    assert [file.name for file in files[:2]] == [f"model-0000{n}-of-000{len(files):02}.safetensors" for n in (1, 2)]
    sizes = [sum(tensor.nbytes for tensor in read_hugging_face(file).weights.values()) for file in files]
    assert max(sizes) <= 1000 and min(map(sum, pairwise(sizes))) > 500
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(sizes) == sum(tensor.nbytes for tensor in weights.values())
    for found in (read_hugging_face(tmp_path).weights, BertModel.from_pretrained(tmp_path).state_dict()):
        assert all(torch.equal(found[name], value) for name, value in weights.items())


def test_sizes_of_files() -> None:
    assert [bytes_of(text, "--x") for text in ("", "5GB", "500mb", "1MiB")] == [0, 5 * 10**9, 5 * 10**8, 2**20]
    with pytest.raises(UserError, match="--x 5: a size such as 5GB"):
        bytes_of("5", "--x")


def test_shards_are_put_together(tmp_path: Path) -> None:
    write_safetensors({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    write_safetensors({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    write_json({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}, index)
    write_json({"hidden_act": "relu"}, tmp_path / "config.json")
    model = read_hugging_face(tmp_path)
    assert sorted(model.weights) == ["a", "b"] and model.config == {"hidden_act": "relu"}
    write_json({"weight_map": {"a": "../one.safetensors"}}, index)
    with pytest.raises(UserError, match="lies in another folder"):
        read_hugging_face(tmp_path)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("model.safetensors", b"\x10" * 64, "not a safetensors file"),
    ("model.safetensors", b"", "not a safetensors file"),
    ("pytorch_model.bin", b"no zip", "not a checkpoint"),
    ("other.txt", b"", "holds none of model.safetensors"),
])
def test_damaged_folders(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_hugging_face(tmp_path)


def test_atomic_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "model"
    with pytest.raises(RuntimeError), atomic_folder(final) as folder:
        (folder / "a").write_text("1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_folder(final) as folder:
        (folder / "a").write_text("1")
        assert not final.exists()
    (final / "mine").write_text("kept")
    with pytest.raises(RuntimeError), atomic_folder(final) as folder:
        (folder / "a").write_text("2")
        raise RuntimeError
    assert (final / "a").read_text() == "1"
    with atomic_folder(final) as folder:
        (folder / "a").write_text("3")
    assert {path.name: path.read_text() for path in final.iterdir()} == {"a": "3", "mine": "kept"}
    assert list(tmp_path.iterdir()) == [final]
    with pytest.raises(UserError, match="is a file"), atomic_folder(final / "a"):
        pass


@pytest.mark.parametrize("lower", [True, False])
def test_rust_tokenizer_reads_our_description(tmp_path: Path, lower: bool) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    write_tokenizer(BertTokenizer(Vocab(TOKENS, SPECIAL), lower), 37, tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ours = BertTokenizer(Vocab.load(tmp_path / "vocab.txt"), lower)
    text = "北京，Café tokens TOKEN " + "s" * 150
    cls, sep = ours.vocab.cls_id, ours.vocab.sep_id
    assert theirs.encode(text).ids == [cls, *ours.encode(text), sep]
    pair = theirs.encode("北", "京 [MASK]")
    assert pair.ids == [2, 5, 3, 6, 4, 3] and pair.type_ids == [0, 0, 0, 1, 1, 1]
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 37
    assert read_tokens(tmp_path) == TOKENS
    (tmp_path / "vocab.txt").unlink()
    assert read_tokens(tmp_path) == TOKENS


def test_provenance_follows_the_stages(tmp_path: Path) -> None:
    for name, step, before in (("one.bin", 100, None), ("two.bin", 50, str(tmp_path / "one.bin-100"))):
        settings = {**ModelConfig(heads_num=3, hidden_act="relu").values(), **asdict(OptimConfig(learning_rate=1e-4)),
                    "total_steps": 1000000, "pretrained_model_path": before, "seed": 0}
        checkpoint.write({"format_version": 1, "step": step, "settings": json.dumps(settings), "model": {},
                          "optimizer": {}, "scale": {}, "sums": {}, "random": torch.zeros(1)},
                         tmp_path / f"{name}.state-{step}")
    assert recorded_stages(tmp_path / "two.bin") == recorded_stages(tmp_path / "two.bin-51") == []
    stages = recorded_stages(tmp_path / "two.bin-50")
    assert [(stage.checkpoint, stage.step) for stage in stages] == [("two.bin-50", 50), ("one.bin-100", 100)]
    assert stages[0].model() == ModelConfig(heads_num=3, hidden_act="relu")
    rows = stages[1].rows()
    assert rows["Steps planned"] == "1,000,000" and rows["Seed"] == "0" and rows["Peak learning rate"] == "0.0001"
    assert "Whole-word masking" not in rows and "Started from" not in rows
    (tmp_path / "two.bin.state-50").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"state-50"):
        recorded_stages(tmp_path / "two.bin-50")
    write_settings(tmp_path / "two.bin-50", 50, stages[0].settings)  # tells the same without the state
    assert recorded_stages(tmp_path / "two.bin-50") == stages
    settings_path(tmp_path / "two.bin-50").rename(settings_path(tmp_path / "renamed.bin"))
    assert [stage.checkpoint for stage in recorded_stages(tmp_path / "renamed.bin")] == ["renamed.bin", "one.bin-100"]


def test_card_says_what_is_known_and_no_more() -> None:
    config = ModelConfig(layers_num=2, hidden_size=128, heads_num=2, feedforward_size=512)
    card = model_card(ModelCardFacts("my_model", BERT, "mlm", config, 21128, 3204872, True, True, "x.bin"))
    assert card.startswith("---\nlanguage: zh\n") and "# my_model\n" in card
    assert "| Parameters | 3,204,872 |" in card and 'pipeline("fill-mask", model="my_model")' in card
    assert "Nothing is recorded beside `x.bin`" in card
    labelled = ModelCardFacts("c", BERT, "text_classification", config, 50, 9, False, False, "y.bin",
                              labels=("a|b", "c"))
    assert "language" not in model_card(labelled) and "| Labels | 2 (a\\|b, c) |" in model_card(labelled)


def test_a_modernbert_s_card_tells_of_its_attention_and_of_no_pooler() -> None:
    config = ModelConfig(layers_num=8, attention_window=128, global_attention_every=3, max_seq_length=8192)
    facts = ModelCardFacts("m", MODERNBERT, "mlm", config, 21128, 9, True, True, "x.bin")
    card = model_card(facts)
    assert "A ModernBERT encoder" in card and "| Longest sequence | 8192 tokens |" in card
    assert "| Attention | to a window of 128 tokens; in layers 1, 4, 7 to all tokens |" in card
    assert "starts one at random" not in card and "`AutoModel` gives `last_hidden_state`" in card
    bert = model_card(replace(facts, architecture=BERT, config=ModelConfig()))
    assert "`AutoModel` starts one at random" in bert and "| Attention |" not in bert


@pytest.mark.parametrize("head", list(BERT.classes))
def test_card_s_example_is_python(head: str) -> None:
    card = model_card(ModelCardFacts("m", BERT, head, ModelConfig(), 5, 9, True, True, "x.bin"))
    compile(card.split("```python\n")[1].split("```")[0], "example", "exec")
