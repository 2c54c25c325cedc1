"""Where a command's model settings come from: shipped files, Hugging Face folders, explicit flags."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from uer import model_settings
from uer.checkpoint.files import load_into, save_weights
from uer.config import ModelConfig, TokenizerConfig, TrainConfig
from uer.convert.open import load_uer_weights, open_hugging_face
from uer.convert.tokenizer_files import read_tokenizer
from uer.errors import UserError
from uer.finetuning.command import finetune, parse_command
from uer.finetuning.saved_model import load_settings, pretrained_hash
from uer.finetuning.tasks.classification import Classification
from uer.model import build_model
from uer.targets.lm import LmConfig

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"甲乙丙丁"]


def make_folder(folder: Path, kind: str = "BertForMaskedLM", **settings: object) -> Path:
    torch.manual_seed(4)
    config = transformers.BertConfig(vocab_size=9, hidden_size=40, num_hidden_layers=2, num_attention_heads=4,
                                     intermediate_size=51, max_position_embeddings=20, initializer_range=0.2,
                                     hidden_act="relu", hidden_dropout_prob=0.2, **settings)
    getattr(transformers, kind)(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("theirs"))


def parse(*words: object) -> tuple[TrainConfig, ModelConfig, TokenizerConfig]:
    argv = ["--output_model_path", "x", *map(str, words)]
    return tuple(model_settings.parse("", (TrainConfig, ModelConfig, TokenizerConfig), argv))


def test_shipped_settings_are_found_from_any_folder(tmp_path, monkeypatch, root):
    monkeypatch.chdir(tmp_path)
    assert parse()[1].hidden_size == 768 and parse()[1].target == ("mlm", "sp")
    for words in (("--config_path", "models/bert/tiny_config.json"), ("--config_path=models/bert/tiny_config.json",)):
        train, model, _ = parse(*words, "--target", "mlm")
        assert (model.hidden_size, model.target, type(model)) == (128, ("mlm",), ModelConfig)
        assert train.config_path == str(root / "models/bert/tiny_config.json")
    assert model_settings.model_settings("models/bert/mini_config.json").layers_num == 4
    (tmp_path / "models/bert").mkdir(parents=True)
    (tmp_path / "models/bert/tiny_config.json").write_text('{"layers_num": 9}')  # a file of one's own comes first
    assert parse("--config_path", "models/bert/tiny_config.json")[1].layers_num == 9
    with pytest.raises(UserError, match="bert/none"):
        parse("--config_path", "models/bert/none.json")


def test_a_value_that_is_no_choice_names_the_flag_of_its_file(tmp_path):
    (tmp_path / "teacher.json").write_text('{"mask": "half"}')
    with pytest.raises(UserError, match=r"^mask in --teacher_config_path: 'half' is unknown"):
        model_settings.model_settings(tmp_path / "teacher.json", "--teacher_config_path")


def test_a_hugging_face_folder_brings_settings_and_vocabulary(folder, tmp_path):
    train, model, tokenizer = parse("--pretrained_model_path", folder, "--dropout", "0.3")
    assert (model.hidden_size, model.heads_num, model.layers_num, model.feedforward_size, model.max_seq_length,
            model.hidden_act, model.tie_weights, model.dropout) == (40, 4, 2, 51, 20, "relu", True, 0.3)
    assert model.target == ("mlm",) and train.config_path is None
    assert tokenizer.vocab_path == str(folder / "vocab.txt") and tokenizer.do_lower_case
    (tmp_path / "own.json").write_text('{"layers_num": 3, "hidden_size": 24, "heads_num": 2, "emb_size": 24}')
    train, model, tokenizer = parse("--pretrained_model_path", folder, "--config_path", tmp_path / "own.json",
                                    "--vocab_path", "own.txt")
    assert (model.layers_num, model.hidden_act, tokenizer.vocab_path) == (3, "gelu", "own.txt")
    assert parse("--pretrained_model_path", "models/tiny.bin", "--vocab_path", "own.txt")[1].hidden_size == 768


def test_a_folder_with_a_decoder_brings_the_settings_of_its_target(tmp_path):
    """BART and Pegasus have a bias in the output layer: without it, pretraining would go on with another model."""
    model = transformers.BartForConditionalGeneration(transformers.BartConfig(
        vocab_size=9, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=12))
    model.save_pretrained(tmp_path / "bart")
    (tmp_path / "bart/vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    words = "--pretrained_model_path", tmp_path / "bart"
    _, settings, _ = parse(*words)
    assert settings.target == ("lm",) and parse(*words, "--target", "cls")[1].target == ("cls",)
    assert settings.of(LmConfig).has_lmtarget_bias and settings.decoder_layers_num == 1
    report = load_into(build_model(settings, 9), load_uer_weights(tmp_path / "bart"), "bart")
    assert report.lines() == []
    assert not parse(*words, "--no-has_lmtarget_bias")[1].of(LmConfig).has_lmtarget_bias


def test_a_folder_s_case_and_tokenizer_json(folder, tmp_path):
    theirs = tmp_path / "theirs"
    shutil.copytree(folder, theirs)
    (theirs / "vocab.txt").unlink()
    (theirs / "tokenizer.json").write_text(json.dumps(
        {"normalizer": {"lowercase": False, "handle_chinese_chars": True},
         "model": {"type": "WordPiece", "vocab": {token: number for number, token in enumerate(TOKENS)}}}))
    tokenizer = parse("--pretrained_model_path", theirs)[2]
    assert tokenizer.vocab_path == str(theirs / "tokenizer.json") and not tokenizer.do_lower_case
    from uer.tokenizers import build_tokenizer

    for content in ('{"model": {"vocab": {"a": 0, "b": 2}}}', '{"model": 3}'):
        (theirs / "tokenizer.json").write_text(content)
        with pytest.raises(UserError, match="no WordPiece vocabulary"):
            build_tokenizer(tokenizer)
        with pytest.raises(UserError, match="no WordPiece vocabulary"):
            read_tokenizer(theirs)


@pytest.mark.parametrize(("kind", "head"), [("BertForMaskedLM", "mlm"), ("BertForPreTraining", "bert"),
                                            ("BertModel", ""), ("BertForSequenceClassification", "text_classification"),
                                            ("BertForTokenClassification", "token_classification"),
                                            ("BertForQuestionAnswering", "extractive_qa")])
def test_weights_of_every_kind_of_folder(tmp_path, kind, head):
    theirs = make_folder(tmp_path / "theirs", kind)
    source = open_hugging_face(theirs)
    assert source.head == head and source.config.layers_num == 2
    weights = load_uer_weights(theirs)
    assert weights.keys() == source.converted.weights.keys() and "embedding.word.embedding.weight" in weights
    raw = getattr(transformers, kind).from_pretrained(theirs).state_dict()
    torch.save(raw, tmp_path / "pytorch_model.bin")  # a file of torch's, without config.json beside it
    assert all(torch.equal(weights[name], tensor) for name, tensor in
               load_uer_weights(tmp_path / "pytorch_model.bin").items())
    save_weights(weights, tmp_path / "uer.bin")
    assert load_uer_weights(tmp_path / "uer.bin").keys() == weights.keys()


def test_an_old_folder_of_the_published_family(tmp_path):
    """pytorch_model.bin with all names of its day, config.json without a class, vocab.txt, and nothing else."""
    theirs = make_folder(tmp_path / "new")
    state = transformers.BertForMaskedLM.from_pretrained(theirs).state_dict()
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
           for name, tensor in state.items()} | {"bert.embeddings.position_ids": torch.arange(20)[None]}
    (tmp_path / "old").mkdir()
    torch.save(old, tmp_path / "old/pytorch_model.bin")
    content = json.loads((theirs / "config.json").read_text())
    kept = ("hidden_act", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
            "num_hidden_layers", "vocab_size", "type_vocab_size", "hidden_dropout_prob")
    (tmp_path / "old/config.json").write_text(json.dumps({name: content[name] for name in kept}))
    shutil.copy(theirs / "vocab.txt", tmp_path / "old")
    new, old = open_hugging_face(theirs), open_hugging_face(tmp_path / "old")
    assert (old.head, old.config) == (new.head, new.config) == ("mlm", new.config)
    assert all(torch.equal(new.converted.weights[name], tensor) for name, tensor in old.converted.weights.items())


def test_fine_tuning_starts_from_a_folder(folder, tmp_path):
    rows = "".join(f"{number % 2}\t{'甲' * (number % 2)}乙丙丁\n" for number in range(8))
    (tmp_path / "t.tsv").write_text("label\ttext_a\n" + rows, encoding="utf-8")
    flags = ["--pretrained_model_path", str(folder), "--train_path", str(tmp_path / "t.tsv"), "--dev_path",
             str(tmp_path / "t.tsv"), "--output_model_path", str(tmp_path / "m.bin"), "--seq_length", "8",
             "--epochs_num", "1", "--device", "cpu", "--log_level", "ERROR"]
    finetune("", Classification, flags)
    saved = load_settings(tmp_path / "m.bin")
    assert (saved.model.hidden_size, len(saved.encoder.tokenizer.vocab)) == (40, 9)
    with pytest.raises(UserError):
        finetune("", Classification, [*flags, "--config_path", "models/bert/tiny_config.json"])
    assert parse_command("", Classification, flags).finetune.config_path is None
    assert len(pretrained_hash(str(folder))) == 64


def test_folders_that_cannot_be_read(folder, tmp_path):
    for path, message in ((tmp_path / "none", "No such file"), (tmp_path, "a folder without the config.json")):
        with pytest.raises(UserError, match=f"--pretrained_model_path {path}: {message}"):
            parse("--pretrained_model_path", path)
    (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
    with pytest.raises(UserError, match="holds none of"):
        parse("--pretrained_model_path", tmp_path)
    shutil.copy(folder / "model.safetensors", tmp_path)
    with pytest.raises(UserError, match="mamba"):
        parse("--pretrained_model_path", tmp_path)
