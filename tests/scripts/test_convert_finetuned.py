"""Fine-tuned models by the conversion scripts, against transformers' pipelines and our own heads."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from uer.checkpoint.files import save_weights
from uer.config import ModelConfig
from uer.convert.hugging_face_files import read_hugging_face
from uer.errors import UserError
from uer.finetuning.batches import Batch
from uer.finetuning.heads import Classifier, Tagger
from uer.finetuning.labels import LabelSet
from uer.finetuning.saved_model import load_finetuned, load_settings, save_finetuned
from uer.finetuning.task import Task, TextToRows
from uer.finetuning.tasks.classification import Classification
from uer.finetuning.tasks.cmrc import ReadingComprehension
from uer.finetuning.tasks.dbqa import Dbqa
from uer.finetuning.tasks.multi_label import MultiLabel
from uer.finetuning.tasks.ner import Ner
from uer.finetuning.tasks.regression import Regression
from uer.finetuning.tasks.simcse import Simcse
from uer.tokenizers import BertTokenizer, Vocab

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"这本书很好看太差了她住在北京哪里?。", "w0", "w1", "w2"]
CONFIG = ModelConfig(emb_size=48, hidden_size=48, feedforward_size=53, heads_num=3, layers_num=2, max_seq_length=41,
                     hidden_act="relu", embedding=("word", "pos", "seg"), tie_weights=True)
Run = Callable[..., str]


def random_model(kind: type, outputs_num: int) -> torch.nn.Module:
    torch.manual_seed(6)
    model = kind(CONFIG, len(TOKENS), outputs_num).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.3)
    return model


def settings_files(folder: Path) -> list[object]:
    """The flags that tell of a model what its weights do not."""
    (folder / "v.txt").write_text("".join(f"{token}\n" for token in TOKENS))
    fields = ("emb_size", "hidden_size", "feedforward_size", "heads_num", "layers_num", "max_seq_length", "hidden_act")
    (folder / "c.json").write_text(json.dumps({name: getattr(CONFIG, name) for name in fields}))
    return ["--vocab_path", folder / "v.txt", "--config_path", folder / "c.json"]


def batch_of(text: str) -> Batch:
    src = torch.tensor([[2, *(TOKENS.index(char) for char in text), 3]])
    return Batch(src, torch.ones_like(src))


def test_classifier_there_and_back_with_its_settings(run_script: Run, tmp_path: Path) -> None:
    model, task = random_model(Classifier, 3), Classification(LabelSet(("坏", "中", "好")))
    vocab = Vocab(TOKENS)
    encoder = TextToRows(BertTokenizer(vocab), 23, "tail")
    save_finetuned(tmp_path / "m.bin", model.state_dict(), task, CONFIG, encoder,
                   {"epochs_num": 3, "learning_rate": 1e-4, "pretrained_model_path": "/home/me/x.bin-5",
                    "dev": {"accuracy": 0.75, "correct": 3}})
    run_script("convert_bert_text_classification_from_uer_to_huggingface.py", "--input_model_path", tmp_path / "m.bin",
               "--output_dir", tmp_path / "hf")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "| Started from | x.bin-5 |" in card and "| On dev | accuracy 0.7500 |" in card and "/home" not in card
    assert "| Sequence length | 23 |" in card
    pipeline = transformers.pipeline("text-classification", model=str(tmp_path / "hf"), top_k=None)
    (answers,) = pipeline(["这本书很好看。"])
    with torch.no_grad():
        expected = model(batch_of("这本书很好看。"))[0].softmax(-1)
    assert {answer["label"]: pytest.approx(answer["score"], abs=1e-5) for answer in answers} == dict(
        zip(task.labels.names, expected.tolist()))

    run_script("convert_bert_text_classification_from_huggingface_to_uer.py", "--input_model_path", tmp_path / "hf",
               "--output_model_path", tmp_path / "back.bin")
    saved = load_settings(tmp_path / "back.bin")
    assert saved is not None and saved.task_settings["labels"] == ["坏", "中", "好"]
    assert saved.model == CONFIG and saved.encoder.tokenizer.vocab.fingerprint == vocab.fingerprint
    again = task.build(saved.model, len(TOKENS))
    load_finetuned(again, task, tmp_path / "back.bin")
    with torch.no_grad():
        assert torch.equal(again.eval()(batch_of("太差了")), model(batch_of("太差了")))
    long = "这本书" * 9
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")(long, truncation=True)
    for cut in (encoder, saved.encoder):  # where a text is cut is kept, too
        assert cut.sequences([long]).tokens[0].tolist() == theirs["input_ids"] and len(theirs["input_ids"]) == 23


def test_sentence_vectors_keep_their_pooling(run_script: Run, tmp_path: Path) -> None:
    task, config = Simcse(0.05), replace(CONFIG, pooling="mean")
    model = task.build(config, len(TOKENS)).eval()
    save_finetuned(tmp_path / "m.bin", model.state_dict(), task, config, TextToRows(BertTokenizer(Vocab(TOKENS)), 23),
                   {})
    run_script("convert_sbert_from_uer_to_huggingface.py", "--input_model_path", tmp_path / "m.bin", "--output_dir",
               tmp_path / "hf")
    pooling = json.loads((tmp_path / "hf/1_Pooling/config.json").read_text())
    assert [name for name, value in pooling.items() if value is True] == ["pooling_mode_mean_tokens"]
    assert json.loads((tmp_path / "hf/sentence_bert_config.json").read_text())["max_seq_length"] == 23
    theirs = transformers.BertModel.from_pretrained(tmp_path / "hf", add_pooling_layer=False).eval()
    batch = batch_of("这本书很好看。")
    with torch.no_grad():
        found = theirs(batch.src).last_hidden_state
        assert torch.allclose(found, model.encode(batch.src, batch.seg), atol=1e-5)


@pytest.mark.parametrize(("task", "kind", "outputs_num", "problem_type"), [
    (MultiLabel(LabelSet(("a", "b", "c"))), "text_classification", 3, "multi_label_classification"),
    (Regression(), "text_classification", 1, "regression"),
    (Dbqa(LabelSet(("0", "1"))), "text_classification", 2, "single_label_classification"),
    (Ner(LabelSet(("B-LOC", "I-LOC", "O"))), "token_classification", 3, None),
    (ReadingComprehension(17, 9), "extractive_qa", 2, None),
])
def test_other_tasks_keep_their_kind_and_labels(run_script: Run, tmp_path: Path, task: Task, kind: str,
                                                outputs_num: int, problem_type: str | None) -> None:
    model = random_model(Classifier if kind == "text_classification" else Tagger, outputs_num)
    save_finetuned(tmp_path / "m.bin", model.state_dict(), task, CONFIG, TextToRows(BertTokenizer(Vocab(TOKENS)), 23),
                   {})
    run_script(f"convert_bert_{kind}_from_uer_to_huggingface.py", "--input_model_path", tmp_path / "m.bin",
               "--output_dir", tmp_path / "hf")
    config = read_hugging_face(tmp_path / "hf").config
    assert config.get("problem_type") == problem_type
    run_script(f"convert_bert_{kind}_from_huggingface_to_uer.py", "--input_model_path", tmp_path / "hf",
               "--output_model_path", tmp_path / "back.bin")
    saved = load_settings(tmp_path / "back.bin")
    assert saved is not None and saved.task == ("classifier" if task.name == "dbqa" else task.name)  # as a folder tells
    if "labels" in task.settings():
        assert saved.task_settings["labels"] == task.settings()["labels"] == list(config["id2label"].values())


def test_a_conditional_random_field_is_not_lost_in_silence(run_script: Run, tmp_path: Path) -> None:
    torch.manual_seed(2)
    save_weights({**Tagger(CONFIG, len(TOKENS), 3).state_dict(), "crf.transitions": torch.zeros(3, 3)},
                 tmp_path / "m.bin")
    with pytest.raises(UserError, match="conditional random field"):
        run_script("convert_bert_token_classification_from_uer_to_huggingface.py", "--input_model_path",
                   tmp_path / "m.bin", "--output_model_path", tmp_path / "hf.bin")


def test_token_classifier_without_settings(run_script: Run, tmp_path: Path) -> None:
    """As UER-py leaves one: weights alone, so labels have no names."""
    model = random_model(Tagger, 5)
    save_weights(model.state_dict(), tmp_path / "m.bin")
    run_script("convert_bert_token_classification_from_uer_to_huggingface.py", "--input_model_path", tmp_path / "m.bin",
               "--output_dir", tmp_path / "hf", *settings_files(tmp_path))
    found = transformers.pipeline("token-classification", model=str(tmp_path / "hf"), ignore_labels=[])("她住在北京。")
    with torch.no_grad():
        expected = model(batch_of("她住在北京。"))[0, 1:-1].softmax(-1)
    assert [entry["entity"] for entry in found] == [f"LABEL_{number}" for number in expected.argmax(-1)]
    assert [entry["score"] for entry in found] == pytest.approx(expected.amax(-1).tolist(), abs=1e-5)
    run_script("convert_bert_token_classification_from_huggingface_to_uer.py", "--input_model_path", tmp_path / "hf",
               "--output_model_path", tmp_path / "back.bin")
    again = Tagger(CONFIG, len(TOKENS), 5).eval()
    again.load_state_dict(torch.load(tmp_path / "back.bin"))
    with torch.no_grad():
        assert torch.equal(again(batch_of("她住在北京。")), model(batch_of("她住在北京。")))


def test_extractive_qa_without_settings(run_script: Run, tmp_path: Path) -> None:
    model = random_model(Tagger, 2)
    save_weights(model.state_dict(), tmp_path / "m.bin")
    run_script("convert_bert_extractive_qa_from_uer_to_huggingface.py", "--input_model_path", tmp_path / "m.bin",
               "--output_dir", tmp_path / "hf", *settings_files(tmp_path))
    theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path / "hf").eval()
    batch = batch_of("她住在哪里?")
    with torch.no_grad():
        start, end = model(batch)[0].unbind(-1)
        found = theirs(batch.src)
    assert torch.allclose(found.start_logits[0], start, atol=1e-4)
    assert torch.allclose(found.end_logits[0], end, atol=1e-4)
    config = json.loads((tmp_path / "hf/config.json").read_text())  # whose labels belong to the model it was made of
    (tmp_path / "hf/config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b", "2": "c"}}))
    with pytest.raises(UserError, match=r"transformers .* cannot open it as BertForQuestionAnswering: "):
        run_script("convert_bert_extractive_qa_from_huggingface_to_uer.py", "--input_model_path", tmp_path / "hf",
                   "--output_model_path", tmp_path / "back.bin")
    (tmp_path / "hf/config.json").write_text(json.dumps({**config, "id2label": {"0": "a", "1": "b"}}))
    run_script("convert_bert_extractive_qa_from_huggingface_to_uer.py", "--input_model_path", tmp_path / "hf",
               "--output_model_path", tmp_path / "back.bin")
    again = Tagger(CONFIG, len(TOKENS), 2).eval()
    again.load_state_dict(torch.load(tmp_path / "back.bin"))
    with torch.no_grad():
        assert torch.equal(again(batch), model(batch))


def test_what_does_not_fit_is_refused(run_script: Run, tmp_path: Path) -> None:
    save_weights(random_model(Tagger, 5).state_dict(), tmp_path / "tagger.bin")
    flags = settings_files(tmp_path)
    for kind, message in (("text_classification", "no text_classification head.*it fits token_classification"),
                          ("extractive_qa", r"output_layer.weight has shape \[5, 48\].*implies \[2, 48\]")):
        with pytest.raises(UserError, match=message):
            run_script(f"convert_bert_{kind}_from_uer_to_huggingface.py", "--input_model_path", tmp_path / "tagger.bin",
                       "--output_dir", tmp_path / "hf", *flags)
    save_finetuned(tmp_path / "m.bin", random_model(Classifier, 2).state_dict(), Classification(LabelSet(("a", "b"))),
                   CONFIG, TextToRows(BertTokenizer(Vocab(TOKENS)), 23), {})
    with pytest.raises(UserError, match="a model of the task 'classifier', not "):
        run_script("convert_bert_token_classification_from_uer_to_huggingface.py", "--input_model_path",
                   tmp_path / "m.bin", "--output_dir", tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_labels_of_a_foreign_config_must_fit(run_script: Run, tmp_path: Path) -> None:
    save_weights(random_model(Classifier, 3).state_dict(), tmp_path / "m.bin")
    run_script("convert_bert_text_classification_from_uer_to_huggingface.py", "--input_model_path", tmp_path / "m.bin",
               "--output_dir", tmp_path / "hf", "--no_check", *settings_files(tmp_path))
    config = read_hugging_face(tmp_path / "hf").config
    assert config["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    with pytest.raises(UserError, match="a BertForSequenceClassification, not a BertForTokenClassification"):
        run_script("convert_bert_token_classification_from_huggingface_to_uer.py", "--input_model_path",
                   tmp_path / "hf", "--output_model_path", tmp_path / "back.bin", "--no_check")
    vocabulary = (tmp_path / "hf" / "vocab.txt").read_text()
    (tmp_path / "hf" / "vocab.txt").write_text(vocabulary + "more\n")
    with pytest.raises(UserError, match=f"its vocabulary has {len(TOKENS) + 1} entries, its weights {len(TOKENS)}"):
        run_script("convert_bert_text_classification_from_huggingface_to_uer.py", "--input_model_path", tmp_path / "hf",
                   "--output_model_path", tmp_path / "back.bin", "--no_check", "--output_vocab_path",
                   tmp_path / "back.txt", "--output_config_path", tmp_path / "config.json")
    assert not (tmp_path / "back.txt").exists() and not (tmp_path / "config.json").exists()
    (tmp_path / "hf" / "vocab.txt").write_text(vocabulary)
    config["id2label"] = {"0": "a", "1": "b"}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="id2label names 2 labels, the weights have 3"):
        run_script("convert_bert_text_classification_from_huggingface_to_uer.py", "--input_model_path", tmp_path / "hf",
                   "--output_model_path", tmp_path / "back.bin", "--no_check")
    assert not (tmp_path / "back.bin").exists()
