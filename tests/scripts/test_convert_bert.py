"""The pretrained conversions by their scripts, against transformers."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from uer.checkpoint.files import load_into, load_weights, save_weights
from uer.config import ModelConfig
from uer.convert.hugging_face_files import read_hugging_face
from uer.errors import UserError
from uer.model import build_model

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

TO_HUGGING_FACE = "convert_bert_from_uer_to_huggingface.py"
TO_UER = "convert_bert_from_huggingface_to_uer.py"
Run = Callable[..., str]


@pytest.fixture(scope="module")
def exported(run_once: Run, golden: Path, google_vocab: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden checkpoint, exported by the script."""
    folder = tmp_path_factory.mktemp("exported")
    printed = run_once(folder, TO_HUGGING_FACE, "--input_model_path", golden / "original_tiny_300steps.bin",
                       "--output_model_path", "pytorch_model.bin", "--layers_num", 2, "--type", "mlm", "--output_dir",
                       "tiny", "--vocab_path", google_vocab)
    assert "the logits differ from those of transformers" in printed
    return folder


def test_golden_checkpoint_in_hugging_face_form(exported: Path, golden: Path) -> None:
    expected = json.loads((golden / "huggingface_keys_tiny_mlm.json").read_text())
    weights = load_weights(exported / "pytorch_model.bin")
    assert [(name, list(tensor.shape)) for name, tensor in weights.items()] == list(expected.items())
    assert sorted(path.name for path in (exported / "tiny").iterdir()) == [
        "README.md", "config.json", "model.safetensors", "special_tokens_map.json", "tokenizer.json",
        "tokenizer_config.json", "vocab.txt"]
    folder = read_hugging_face(exported / "tiny").weights
    assert weights.keys() - folder.keys() == {"cls.predictions.decoder.weight"}
    assert all(torch.equal(weights[name], tensor) for name, tensor in folder.items())


def test_fill_mask_pipeline_opens_the_folder(exported: Path, golden: Path) -> None:
    """The original's own answers; its layer norm differs a little (see BEHAVIOUR), so does the last digit."""
    expected = json.loads((golden / "original_tiny_expected.json").read_text())
    answers = transformers.pipeline("fill-mask", model=str(exported / "tiny"), top_k=10)(expected["text"])
    assert [answer["token_str"] for answer in answers][:4] == [entry["token"] for entry in expected["top10"]][:4]
    for answer, entry in zip(answers, expected["top10"]):
        assert answer["score"] == pytest.approx(entry["prob"], rel=0.1)


def test_auto_classes_open_the_folder_without_loss(exported: Path, golden: Path) -> None:
    model, info = transformers.AutoModel.from_pretrained(exported / "tiny", output_loading_info=True)
    missing = {name.removeprefix("bert.") for name in info["missing_keys"]}  # the prefix is transformers 4's
    assert missing == {"pooler.dense.weight", "pooler.dense.bias"} and not info["mismatched_keys"]
    _, info = transformers.AutoModelForMaskedLM.from_pretrained(exported / "tiny", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported / "tiny")
    expected = json.loads((golden / "original_tiny_expected.json").read_text())
    assert tokenizer(expected["text"])["input_ids"] == expected["input_ids"]
    assert tokenizer.model_max_length == 512
    config = ModelConfig(emb_size=128, hidden_size=128, feedforward_size=512, heads_num=2, layers_num=2,
                         embedding=("word", "pos", "seg"), tie_weights=True)
    ours = build_model(config, 21128).eval()
    load_into(ours, load_weights(golden / "original_tiny_300steps.bin"), "golden")
    src = torch.tensor([expected["input_ids"]])
    with torch.no_grad():
        hidden = model.eval()(src).last_hidden_state
        assert torch.allclose(ours.encode(src, torch.ones_like(src)), hidden, atol=1e-5)


def random_folder(folder: Path, kind: str = "BertForMaskedLM", **settings: object) -> Path:
    """A small random model as transformers saves it, every bias and norm random too."""
    torch.manual_seed(3)
    config = transformers.BertConfig(vocab_size=97, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
                                     intermediate_size=53, max_position_embeddings=31, initializer_range=0.3,
                                     hidden_act="relu", **settings)
    model = getattr(transformers, kind)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def vocabulary(path: Path) -> Path:
    """97 entries with a few characters of the check's sentences."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys("中国的首都是北京。长江最河流，全约")]
    path.write_text("".join(f"{token}\n" for token in tokens + [f"w{n}" for n in range(97 - len(tokens))]))
    return path


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("kind", "name", "settings"), [
    ("BertForMaskedLM", "mlm", {}), ("BertForMaskedLM", "mlm", {"tie_word_embeddings": False}),
    ("BertForPreTraining", "bert", {}), ("BertForPreTraining", "mlm", {})])
def test_hugging_face_to_uer_and_back(run_script: Run, tmp_path: Path, kind: str, name: str, settings: dict) -> None:
    theirs = random_folder(tmp_path / "theirs", kind, **settings)
    printed = run_script(TO_UER, "--input_model_path", theirs, "--output_model_path", tmp_path / "uer.bin",
                         "--type", name, "--output_config_path", tmp_path / "uer.json", "--layers_num", 3)
    assert "4 heads, feed-forward 53, relu" in printed
    assert ("left out" in printed) == (kind == "BertForPreTraining" and name == "mlm")
    printed = run_script(TO_HUGGING_FACE, "--input_model_path", tmp_path / "uer.bin", "--output_dir", tmp_path / "back",
                         "--type", name, "--config_path", tmp_path / "uer.json",
                         "--vocab_path", vocabulary(tmp_path / "v.txt"))
    assert "checked: on " in printed
    back, first = read_hugging_face(tmp_path / "back"), read_hugging_face(theirs)
    assert back.config["tie_word_embeddings"] is settings.get("tie_word_embeddings", True)
    expected = {key: tensor for key, tensor in first.weights.items()
                if name == "bert" or not key.startswith(("bert.pooler", "cls.seq_relationship"))}
    if settings:  # untied: transformers 5 stores two biases and computes with the decoder's, transformers 4 has one
        bias = expected.get("cls.predictions.decoder.bias", expected["cls.predictions.bias"])
        expected |= dict.fromkeys(("cls.predictions.decoder.bias", "cls.predictions.bias"), bias)
    assert same(back.weights, expected)


def test_our_model_gives_their_logits(run_script: Run, tmp_path: Path) -> None:
    """As the scripts' own check, but through the model and configuration that a user would load."""
    theirs = random_folder(tmp_path / "theirs")
    run_script(TO_UER, "--input_model_path", theirs, "--output_model_path", tmp_path / "uer.bin", "--type", "mlm",
               "--output_config_path", tmp_path / "uer.json", "--no_check")
    settings = json.loads((tmp_path / "uer.json").read_text())
    config = ModelConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()})
    ours = build_model(config, 97).eval()
    report = load_into(ours, load_weights(tmp_path / "uer.bin"), "uer.bin")
    assert not report.lines()
    src = torch.randint(0, 97, (5, 31))
    seg = (torch.arange(31)[None] < torch.tensor([31, 7, 13, 1, 30])[:, None]) * (1 + (torch.arange(31) > 5).long())
    with torch.no_grad():
        expected = transformers.BertForMaskedLM.from_pretrained(theirs).eval()(
            src, token_type_ids=(seg - 1).clamp(min=0), attention_mask=(seg > 0).long()).logits
        found = ours.target["mlm"].logits(ours.encode(src, seg))
    assert torch.allclose(found[seg > 0], expected[seg > 0], atol=1e-4)


def test_failed_check_leaves_everything_as_it_was(run_script: Run, golden: Path, google_vocab: Path, tmp_path: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    weights = load_weights(golden / "original_tiny_300steps.bin")
    weights["encoder.transformer.0.layer_norm_1.gamma"][0] = float("nan")
    save_weights(weights, tmp_path / "nan.bin")
    (tmp_path / "old.bin").write_text("old")
    arguments = ["--input_model_path", tmp_path / "nan.bin", "--type", "mlm", "--vocab_path", google_vocab]
    with pytest.raises(UserError, match="not finite"):
        run_script(TO_HUGGING_FACE, *arguments, "--output_model_path", tmp_path / "old.bin")
    with pytest.raises(UserError, match="not finite"):
        run_script(TO_HUGGING_FACE, *arguments, "--output_dir", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nan.bin", "old.bin"]
    assert (tmp_path / "old.bin").read_text() == "old"


@pytest.mark.parametrize(("arguments", "message"), [
    (["--type", "bert"], "--type bert needs the layers of the targets mlm and sp, but target.sp.*; --type mlm fits"),
    (["--type", "mlm", "--layers_num", "12"], "layers_num is 12, but .* has 2 layers"),
    (["--type", "mlm", "--config_path", "models/bert/mini_config.json"], "layers_num is 4, but .* has 2 layers"),
    (["--type", "mlm", "--output_dir", "TMP/x", "--vocab_path", "TMP/v.txt"], r"v.txt has 97 entries, but .* 21128"),
    (["--type", "gpt"], "--type: 'gpt' is unknown"),
])
def test_bad_settings_are_refused(run_script: Run, golden: Path, root: Path, tmp_path: Path, arguments: list[str],
                                  message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    vocabulary(tmp_path / "v.txt")
    with pytest.raises(UserError, match=message):
        run_script(TO_HUGGING_FACE, "--input_model_path", golden / "original_tiny_300steps.bin",
                   *(argument.replace("TMP", str(tmp_path)) for argument in arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["v.txt"]


@pytest.mark.parametrize(("change", "message"), [
    ({"num_hidden_layers": 2}, "config.json says num_hidden_layers 2, but the weights have 3"),
    ({"num_attention_heads": "four"}, "num_attention_heads must be a whole number, not four"),
    ({"num_attention_heads": 5}, "hidden size 48 is not divisible by 5 heads"),
    ({"hidden_act": "mish"}, "hidden_act mish has no counterpart in UER"),
    ({"model_type": "roberta"}, "model_type is roberta"),
    ({"position_embedding_type": "relative_key"}, "position_embedding_type is relative_key"),
])
def test_a_config_that_does_not_fit_is_refused(run_script: Run, tmp_path: Path, change: dict, message: str) -> None:
    folder = random_folder(tmp_path / "theirs")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(UserError, match=message):
        run_script(TO_UER, "--input_model_path", folder, "--output_model_path", tmp_path / "uer.bin", "--type", "mlm")
    assert not (tmp_path / "uer.bin").exists()


def test_untied_weights_alone_have_the_output_bias_twice(run_script: Run, tmp_path: Path) -> None:
    """transformers 5 does not share the two names where the output layer is untied."""
    theirs = random_folder(tmp_path / "theirs", tie_word_embeddings=False)
    run_script(TO_UER, "--input_model_path", theirs, "--output_model_path", tmp_path / "uer.bin",
               "--output_config_path", tmp_path / "uer.json")
    printed = run_script(TO_HUGGING_FACE, "--input_model_path", tmp_path / "uer.bin", "--output_model_path",
                         tmp_path / "back.bin", "--config_path", tmp_path / "uer.json")
    weights = load_weights(tmp_path / "back.bin")
    assert "checked: on " in printed and "tie_word_embeddings" in printed
    assert torch.equal(weights["cls.predictions.decoder.bias"], weights["cls.predictions.bias"])
    (tmp_path / "config.json").write_text((theirs / "config.json").read_text())
    printed = run_script(TO_UER, "--input_model_path", tmp_path / "back.bin", "--output_model_path", tmp_path / "2.bin")
    assert "checked: on " in printed and same(load_weights(tmp_path / "2.bin"), load_weights(tmp_path / "uer.bin"))


def test_half_precision_is_kept(run_script: Run, tmp_path: Path) -> None:
    folder = random_folder(tmp_path / "theirs")
    transformers.BertForMaskedLM.from_pretrained(folder).half().save_pretrained(folder)
    run_script(TO_UER, "--input_model_path", folder, "--output_model_path", tmp_path / "uer.bin", "--type", "mlm")
    weights = read_hugging_face(folder).weights
    assert torch.equal(load_weights(tmp_path / "uer.bin")["target.mlm.linear_2.bias"], weights["cls.predictions.bias"])


@pytest.mark.parametrize(("kind", "head"), [("BertForMaskedLM", "mlm"), ("BertForPreTraining", "bert")])
def test_without_a_type_the_weights_decide(run_script: Run, tmp_path: Path, kind: str, head: str) -> None:
    theirs = random_folder(tmp_path / "theirs", kind)
    printed = run_script(TO_UER, "--input_model_path", theirs, "--output_model_path", tmp_path / "uer.bin",
                         "--output_config_path", tmp_path / "uer.json")
    assert f"head {head}" in printed and "checked: on " in printed
    printed = run_script(TO_HUGGING_FACE, "--input_model_path", tmp_path / "uer.bin", "--output_model_path",
                         tmp_path / "back.bin", "--config_path", tmp_path / "uer.json")
    assert f"head {head}" in printed and "checked: on " in printed
    if head == "mlm":
        with pytest.raises(UserError, match="--type mlm fits"):
            run_script(TO_UER, "--input_model_path", theirs, "--output_model_path", tmp_path / "x", "--type", "bert")
