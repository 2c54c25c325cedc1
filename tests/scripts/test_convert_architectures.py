"""What the conversion scripts share takes any architecture of the table: its real models of both sides agree."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from uer.backbone import Backbone
from uer.checkpoint.files import load_into, load_weights
from uer.convert import ARCHITECTURES
from uer.convert.hugging_face_files import read_hugging_face
from uer.convert.names import tidy
from uer.convert.open import load_uer_weights, open_hugging_face
from uer.errors import UserError

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"中国的首都是北京。", *(f"w{n}" for n in range(83))]


def save_random(model: nn.Module, folder: Path) -> Path:
    """A folder as transformers saves it, every bias and norm random too, with a vocabulary."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 0.3)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    return folder


def albert(kind: str, **settings: object) -> nn.Module:
    return getattr(transformers, kind)(transformers.AlbertConfig(
        vocab_size=97, embedding_size=20, hidden_size=48, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=53, max_position_embeddings=31, hidden_act="relu", **settings))


@pytest.mark.parametrize(("kind", "head", "settings"), [
    ("AlbertForPreTraining", "albert", {"tie_word_embeddings": False}), ("AlbertForMaskedLM", "mlm", {}),
    ("AlbertForSequenceClassification", "text_classification", {"num_labels": 3}),
    ("AlbertForTokenClassification", "token_classification", {"num_labels": 5}),
    ("AlbertForQuestionAnswering", "extractive_qa", {})])
def test_albert_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path, kind: str, head: str,
                               settings: dict, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.syspath_prepend(str(root / "scripts"))
    from _to_huggingface import ExportFlags, export
    from _to_uer import FinetunedImportFlags, import_model

    model, table = albert(kind, **settings), ARCHITECTURES["albert"]
    theirs = save_random(model, tmp_path / "theirs")
    assert open_hugging_face(theirs).head == head
    given = None if head in table.outputs else head
    import_model(table, FinetunedImportFlags(
        input_model_path=str(theirs), output_model_path=str(tmp_path / "uer.bin"), layers_num=3,
        output_config_path=str(tmp_path / "c.json"), output_vocab_path=str(tmp_path / "v.txt")), given)
    export(table, ExportFlags(input_model_path=str(tmp_path / "uer.bin"), output_dir=str(tmp_path / "back"),
                              config_path=str(tmp_path / "c.json"), vocab_path=str(tmp_path / "v.txt")), given)
    assert capsys.readouterr().out.count("checked: on ") == 2
    back, first = read_hugging_face(tmp_path / "back"), read_hugging_face(theirs)
    assert back.config["model_type"] == "albert" and back.config["architectures"] == [kind]
    ours, expected = tidy(back.weights, table.names), tidy(first.weights, table.names)
    assert ours.keys() == expected.keys() and all(torch.equal(ours[name], expected[name]) for name in ours)
    opened = getattr(transformers, kind).from_pretrained(tmp_path / "back").state_dict()
    used = model.state_dict().keys() - set(table.names.duplicates.values())
    assert all(torch.equal(opened[name], tensor) for name, tensor in model.state_dict().items() if name in used)
    assert load_uer_weights(theirs).keys() == load_weights(tmp_path / "uer.bin").keys()
    assert "An ALBERT encoder" in (tmp_path / "back" / "README.md").read_text()


def test_another_architecture_is_refused(run_script: Callable[..., str], tmp_path: Path) -> None:
    theirs = save_random(albert("AlbertForMaskedLM"), tmp_path / "theirs")
    with pytest.raises(UserError, match="model_type is albert; only bert can be converted"):
        run_script("convert_bert_from_huggingface_to_uer.py", "--input_model_path", theirs, "--output_model_path",
                   tmp_path / "uer.bin")


def test_a_broken_conversion_fails_the_check(run_script: Callable[..., str], tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    """One weight that is wrong by a thousandth: nothing is written."""
    import _to_uer

    theirs = save_random(albert("AlbertForMaskedLM"), tmp_path / "theirs")
    convert = _to_uer.convert_hugging_face

    def damaged(*arguments: object) -> object:
        source = convert(*arguments)
        source.converted.weights["encoder.linear.weight"][0, 0] += 1e-3
        return source

    monkeypatch.setattr(_to_uer, "convert_hugging_face", damaged)
    flags = _to_uer.ImportFlags(input_model_path=str(theirs), output_model_path=str(tmp_path / "uer.bin"))
    with pytest.raises(UserError, match="the check failed: logits differ"):
        _to_uer.import_model(ARCHITECTURES["albert"], flags, None)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_version_of_transformers_without_the_model_is_named(run_script: Callable[..., str], tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    import _logits_check

    theirs = save_random(albert("AlbertForMaskedLM"), tmp_path / "theirs")
    monkeypatch.setattr(_logits_check, "transformers", lambda: SimpleNamespace(__version__="4.41.2"))
    with pytest.raises(UserError, match=r"transformers 4\.41\.2 has no AlbertForMaskedLM, .* --no_check"):
        run_script("convert_albert_from_huggingface_to_uer.py", "--input_model_path", theirs, "--output_model_path",
                   tmp_path / "uer.bin")


def test_differences_that_rounding_explains_are_right(run_script: Callable[..., str], tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Where less is allowed than float32 can keep, the same model in float64 tells what rounding does.

    Either side's logits are 2e-6 to 4e-6 of the largest away from float64's, as the CPU's instructions order the sums:
    more than the 1e-7 that is allowed here, and less than `MOST_ROUNDING` times as much.
    """
    monkeypatch.syspath_prepend(str(root / "scripts"))
    import _logits_check

    theirs = save_random(albert("AlbertForMaskedLM"), tmp_path / "theirs")
    arguments = ("convert_albert_from_huggingface_to_uer.py", "--input_model_path", theirs, "--output_model_path",
                 tmp_path / "uer.bin")
    monkeypatch.setattr(_logits_check, "TOLERANCE", 1e-7)
    assert "checked: on " in run_script(*arguments)
    monkeypatch.setattr(_logits_check, "MOST_ROUNDING", 0)
    with pytest.raises(UserError, match="the check failed: logits differ"):
        run_script(*arguments)


def test_gpt2_gives_transformers_hidden_states(tmp_path: Path) -> None:
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=97, n_embd=48, n_layer=3, n_head=4, n_inner=53, n_positions=31, layer_norm_epsilon=1e-12,
        bos_token_id=2, eos_token_id=3))
    source = open_hugging_face(save_random(model, tmp_path / "theirs"))
    assert (source.architecture.name, source.head, source.config.hidden_act) == ("gpt2", "lm", "gelu_fast")
    ours = Backbone(source.config, 97).eval()
    assert not load_into(ours, source.converted.weights, "x").missing
    src, seg = torch.randint(5, 97, (2, 17)), torch.ones(2, 17, dtype=torch.long)
    seg[1, 11:] = 0
    with torch.no_grad():
        hidden = ours.encode(src, seg)[seg > 0]
        expected = model.eval().transformer(**source.architecture.inputs(src, seg)).last_hidden_state[seg > 0]
    assert torch.allclose(hidden, expected, atol=1e-5 * float(expected.abs().max()))
