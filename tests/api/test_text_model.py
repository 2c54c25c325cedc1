"""Models in use from Python, against transformers and against the fine-tuning commands."""

import dataclasses
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import uer
from uer.checkpoint.files import save_weights
from uer.config import ModelConfig, TokenizerConfig
from uer.convert.tokenizer_files import tokenizer_settings
from uer.errors import UserError
from uer.finetuning.labels import LabelSet
from uer.finetuning.saved_model import save_finetuned
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.c3 import MultipleChoiceTask
from uer.finetuning.tasks.classification import Classification
from uer.finetuning.tasks.cmrc import ReadingComprehension
from uer.finetuning.tasks.multi_label import MultiLabel
from uer.finetuning.tasks.ner import Ner
from uer.finetuning.tasks.regression import Regression
from uer.finetuning.tasks.siamese import Siamese
from uer.finetuning.tasks.simcse import Simcse
from uer.model import build_model
from uer.tokenizers import BertTokenizer, Vocab, build_tokenizer

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys("中国的首都是北京。今天气很好，我们去公园玩吧"),
          "tok", "##en", "##s", "b", "##e", "hello")
SIZES = {"vocab_size": len(TOKENS), "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "intermediate_size": 53, "max_position_embeddings": 31, "initializer_range": 0.3, "hidden_act": "relu"}
TEXTS = ["北京是中国的首都。", "", "hello tokens be 北京\n公园", "好" * 90, "今天天气很好，我们去公园玩吧。", "玩"]
CONFIG = ModelConfig(emb_size=24, hidden_size=24, feedforward_size=37, heads_num=3, layers_num=2, max_seq_length=20,
                     embedding=("word", "pos", "seg"), tie_weights=True)
LABELS = LabelSet(("差", "中", "好"))


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_folder("BertForMaskedLM", num_labels=3)`: a folder with its vocabulary; every bias and norm is random."""
    made: dict[tuple, Path] = {}

    def make(kind: str, **settings: object) -> Path:
        key = (kind, repr(settings))
        if key not in made:
            made[key] = folder = tmp_path_factory.mktemp(kind)
            torch.manual_seed(3)
            model = getattr(transformers, kind)(transformers.BertConfig(**SIZES, **settings))
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.dim() == 1:
                        parameter.add_(0.2 * torch.randn_like(parameter))
            model.save_pretrained(folder)
            (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
        return made[key]

    return make


@pytest.fixture(scope="session")
def theirs() -> Callable[[Path, str], tuple]:
    """(model, tokenizer) of a folder, opened by transformers."""
    def open_folder(folder: Path, kind: str) -> tuple:
        return (getattr(transformers, kind).from_pretrained(folder).eval(),
                transformers.AutoTokenizer.from_pretrained(folder))

    return open_folder


def their_inputs(tokenizer, first, second=None):
    return tokenizer(first, second, padding=True, truncation=True, max_length=31, return_tensors="pt")


@pytest.mark.parametrize("kind", ["BertModel", "BertForMaskedLM", "BertForPreTraining",
                                  "BertForSequenceClassification", "BertForTokenClassification"])
def test_vectors_are_those_of_transformers(make_folder, theirs, kind):
    folder = make_folder(kind)
    (model, tokenizer), ours = theirs(folder, kind), uer.load(folder, device="cpu")
    inputs = their_inputs(tokenizer, TEXTS)
    with torch.no_grad():
        hidden = getattr(model, "bert", model)(**inputs).last_hidden_state
    real = inputs["attention_mask"][:, :, None]
    expected = {"first": hidden[:, 0], "mean": (hidden * real).sum(1) / real.sum(1),
                "max": hidden.masked_fill(real == 0, float("-inf")).amax(1),
                "last": hidden[torch.arange(len(TEXTS)), real[:, :, 0].sum(1) - 1]}
    for pooling, vectors in expected.items():
        found = ours.encode(TEXTS, pooling=pooling, batch_size=4)
        assert found.dtype == np.float32 and found.shape == (6, 48)
        assert np.abs(found - vectors.numpy()).max() < 1e-5, pooling
    unit = ours.encode(TEXTS, pooling="mean", normalize=True)
    assert np.allclose(np.linalg.norm(unit, axis=1), 1.0, atol=1e-6)


def test_masked_words_are_those_of_transformers(make_folder, theirs):
    folder = make_folder("BertForMaskedLM")
    (model, tokenizer), ours = theirs(folder, "BertForMaskedLM"), uer.load(folder)
    texts = ["中国的首都是[MASK]京。", "[MASK]天天气很[MASK]", "玩[MASK]"]
    for text, found in zip(texts, ours.fill_mask(texts, top_k=4, batch_size=2)):
        inputs = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            rows = model(**inputs).logits[inputs["input_ids"] == tokenizer.mask_token_id].softmax(-1)
        for row, words in zip(rows, found if text.count("[MASK]") > 1 else [found]):
            best = row.topk(4)
            assert [word.token for word in words] == tokenizer.convert_ids_to_tokens(best.indices)
            assert [word.probability for word in words] == pytest.approx(best.values.tolist(), abs=1e-5)
    alone, together = ours.fill_mask(texts[0]), ours.fill_mask(texts)[0]
    assert [word.token for word in alone] == [word.token for word in together]
    assert len(ours.fill_mask("玩" * 90 + "[MASK]")) == 5


@pytest.mark.parametrize(("settings", "pairs"), [
    ({"num_labels": 3}, False), ({"num_labels": 3, "id2label": {0: "差", 1: "中", 2: "好"}}, True),
    ({"num_labels": 3, "problem_type": "multi_label_classification"}, False), ({"num_labels": 1}, True)])
def test_predictions_are_those_of_transformers(make_folder, theirs, settings, pairs):
    folder = make_folder("BertForSequenceClassification", **settings)
    (model, tokenizer), ours = theirs(folder, "BertForSequenceClassification"), uer.load(folder)
    inputs = list(zip(TEXTS, reversed(TEXTS))) if pairs else TEXTS
    with torch.no_grad():
        logits = model(**their_inputs(tokenizer, TEXTS, TEXTS[::-1] if pairs else None)).logits
    names = list(model.config.id2label.values())
    for prediction, row in zip(ours.predict(inputs, batch_size=4), logits):
        if settings["num_labels"] == 1:
            assert prediction.label == pytest.approx(row.item(), abs=1e-5)
            continue
        expected = row.sigmoid() if "problem_type" in settings else row.softmax(-1)
        assert list(prediction.probabilities) == names
        assert list(prediction.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)
        if "problem_type" in settings:
            assert prediction.label == tuple(name for name, share in zip(names, expected) if share > 0.5)
        else:
            assert prediction.label == names[int(row.argmax())]


def test_tags_are_those_of_transformers(make_folder, theirs):
    folder = make_folder("BertForTokenClassification", num_labels=4)
    (model, tokenizer), ours = theirs(folder, "BertForTokenClassification"), uer.load(folder)
    words = ["北", "京", "tokens", "公", "园"]
    inputs = tokenizer(words, is_split_into_words=True, return_tensors="pt")
    with torch.no_grad():
        tags = model(**inputs).logits[0].argmax(-1).tolist()
    starts = [inputs.word_ids(0).index(number) for number in range(len(words))]
    (found,) = ours.predict([words])
    assert found.words == tuple(words) and found.label == tuple(model.config.id2label[tags[at]] for at in starts)
    assert ours.predict("北京公园")[0].words == tuple("北京公园")


def test_an_answer_is_a_part_of_the_text(make_folder):
    ours = uer.load(make_folder("BertForQuestionAnswering"))
    text = "北京是中国的首都。今天天气很好，我们去公园玩吧。" * 3
    answers = ours.predict([("首都是北京吗", text), ("玩", "北京")])
    assert all(answer.label and answer.label in given for answer, given in zip(answers, (text, "北京")))


def save(folder: Path, task, seq_length: int = 12) -> Path:
    torch.manual_seed(1)
    model = task.build(CONFIG, len(TOKENS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    encoder = TextToRows(BertTokenizer(Vocab(TOKENS), True), seq_length)
    save_finetuned(folder / "m.bin", model.state_dict(), task, CONFIG, encoder, {})
    return folder / "m.bin"


@pytest.mark.parametrize(("task", "script"), [
    (Classification(LABELS), "classifier"), (Classification(LABELS, pairs=True), "classifier"),
    (MultiLabel(LABELS), "classifier_multi_label"), (Regression(), "regression"),
    (Siamese(LABELS), "classifier_siamese"), (Ner(LabelSet(("B-X", "I-X", "O"))), "ner")],
    ids=lambda value: getattr(value, "name", value))
def test_predictions_are_those_of_the_inference_scripts(root, tmp_path, monkeypatch, capsys, task, script):
    """Texts beyond seq_length, lines of different lengths, empty ones."""
    path = save(tmp_path, task)
    texts = [text.replace("\n", " ") or "玩" for text in TEXTS]
    pairs = getattr(task, "pairs", None) or task.name == "siamese"
    rows = [{"text_a": text} | ({"text_b": texts[-at]} if pairs else {}) for at, text in enumerate(texts)]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(sys, "argv", ["x", "--load_model_path", str(path), "--test_path", str(tmp_path / "t.jsonl"),
                                      "--prediction_path", str(tmp_path / "p.tsv"), "--device", "cpu",
                                      *["--output_prob"] * task.writes_logits])
    runpy.run_path(str(root / "inference" / f"run_{script}_infer.py"), run_name="script")["main"]()
    header, *lines = [line.split("\t") for line in (tmp_path / "p.tsv").read_text().split("\n")[:-1]]
    found = uer.load(path).predict([tuple(row.values()) if pairs else row["text_a"] for row in rows], batch_size=4)
    assert len(found) == len(lines) == 6
    for prediction, line in zip(found, lines):
        told = dict(zip(header, line))
        if task.name == "ner":
            assert " ".join(prediction.label) == told["pred_label"]
        elif task.name == "regression":
            assert prediction.label == pytest.approx(float(told["label"]), abs=1e-5)
        else:
            label = prediction.label if isinstance(prediction.label, str) else ",".join(prediction.label)
            assert label == told["label"]
            assert list(prediction.probabilities.values()) == pytest.approx(
                [float(share) for share in told["prob"].split()], abs=1e-5)


def test_choices_similarities_and_answers(tmp_path):
    choice = uer.load(save(tmp_path, MultipleChoiceTask(4))).predict([("今天天气很好", "天气", ["好", "很好"])])[0]
    assert choice.label in ("好", "很好") and sum(choice.probabilities.values()) == pytest.approx(1.0)
    same, other = uer.load(save(tmp_path, Simcse(0.05))).predict([("北京", "北京"), ("北京", "公园玩")])
    assert same.label == pytest.approx(1.0, abs=1e-5) and other.label < same.label
    assert uer.load(save(tmp_path, ReadingComprehension(4, 3))).predict([("玩", "今天天气很好")])[0].label


def checkpoint(folder: Path, config: ModelConfig = CONFIG, size: int = len(TOKENS)) -> tuple[Path, Path]:
    torch.manual_seed(2)
    model = build_model(config, size)
    save_weights(model.state_dict(), folder / "tiny.bin-10")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in TOKENS), encoding="utf-8")
    return folder / "tiny.bin-10", folder / "vocab.txt"


def test_a_checkpoint_with_its_settings(tmp_path, monkeypatch):
    path, vocab = checkpoint(tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps(CONFIG.values()))
    ours = uer.load(path, config_path=tmp_path / "tiny.json", vocab_path=vocab)
    assert ours.config == CONFIG and "pretrained" in repr(ours)
    assert len(ours.fill_mask("玩[MASK]", top_k=99)) == len(TOKENS)
    with torch.no_grad():
        src = torch.tensor([[2, *ours.tokenizer.encode(TEXTS[0]), 3]])
        hidden = ours.model.encode(src, torch.ones_like(src))[0]
    assert np.abs(ours.encode(TEXTS[0])[0] - hidden[0].numpy()).max() < 1e-6
    shutil.move(path, tmp_path / "tiny.bin")  # its settings stand beside it under the same name
    assert np.array_equal(uer.load(tmp_path / "tiny.bin", vocab_path=vocab).encode(TEXTS), ours.encode(TEXTS))


def test_a_checkpoint_of_usual_sizes_needs_no_settings(tmp_path):
    config = dataclasses.replace(CONFIG, emb_size=64, hidden_size=64, heads_num=1)
    path, vocab = checkpoint(tmp_path, config)
    assert uer.load(path, vocab_path=vocab).encode([]).shape == (0, 64)
    assert uer.load(path, vocab_path=vocab).config.feedforward_size == 37


@pytest.mark.parametrize(("call", "message"), [
    (lambda m: m.predict(["玩"]), "pretrained model makes no predictions"),
    (lambda m: m.encode(["玩"], pooling="middle"), "pooling 'middle' is unknown"),
    (lambda m: m.encode([3]), "input 0 must be a text, not int"),
    (lambda m: m.encode(3), "list of texts, not int"),
    (lambda m: m.encode(["玩\ud800"]), "surrogate"),
    (lambda m: m.encode(["玩"], batch_size=0), "batch_size must be at least 1"),
    (lambda m: m.encode(["玩"], seq_length=99), "between 3 and the model's 31"),
    (lambda m: m.fill_mask("玩"), r"input 0 has no \[MASK\]"),
    (lambda m: m.fill_mask("[MASK]", top_k=0), "top_k must be at least 1")])
def test_mistakes_of_use(make_folder, call, message):
    with pytest.raises(UserError, match=message):
        call(uer.load(make_folder("BertForMaskedLM")))


@pytest.mark.parametrize(("task", "inputs", "message"), [
    (Classification(LABELS, pairs=True), ["玩"], "trained on pairs"),
    (Classification(LABELS, pairs=False), [("玩", "好")], "single texts"),
    (Classification(LABELS), [("玩", "好"), "玩"], "input 1 must be a pair"),
    (Classification(LABELS), ["玩", ("玩", "好")], "input 1 must be a text"),
    (Classification(LABELS), [None], "input 0 must be a text, not NoneType"),
    (Siamese(LABELS), ["玩"], "pair"), (ReadingComprehension(4, 3), ["玩"], r"\(question, text\)"),
    (MultipleChoiceTask(2), [("玩", "好", ["a", "b", "c"])], "3 choices"), (Ner(LABELS), [3], "list of words")])
def test_inputs_that_a_task_does_not_read(tmp_path, task, inputs, message):
    ours = uer.load(save(tmp_path, task))
    with pytest.raises(UserError, match=message):
        ours.predict(inputs)
    with pytest.raises(UserError, match="no mlm head"):
        ours.fill_mask("[MASK]")


def test_mistakes_of_loading(make_folder, tmp_path):
    path, vocab = checkpoint(tmp_path)
    for arguments, message in (
            ((tmp_path / "none",), "no such file"), ((path, "nonsense"), "device nonsense"),
            ((path, "cuda:99"), "cuda:99"), ((tmp_path,), "is a folder"), ((vocab,), "not a checkpoint")):
        with pytest.raises(UserError, match=message):
            uer.load(*arguments, vocab_path=vocab)
    with pytest.raises(UserError, match="number of heads is not known"):
        uer.load(path, vocab_path=vocab)
    with pytest.raises(UserError, match="precision"):
        uer.load(path, precision="fp64")
    short = tmp_path / "short.txt"
    short.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(UserError, match="has 5 entries"):
        uer.load(make_folder("BertModel"), vocab_path=short)
    bare = tmp_path / "bare"
    shutil.copytree(make_folder("BertModel"), bare)
    (bare / "vocab.txt").unlink()
    with pytest.raises(UserError, match="neither vocab"):
        uer.load(bare)
    assert uer.load(bare, vocab_path=vocab).encode("玩").shape == (1, 48)
    with pytest.raises(UserError, match="leave out vocab_path"):
        uer.load(save(tmp_path, Regression()), vocab_path=vocab)


def test_a_folder_s_tokenizer_decides_case_and_special_entries(make_folder, tmp_path):
    folder = tmp_path / "cased"
    shutil.copytree(make_folder("BertForMaskedLM"), folder)
    assert uer.load(folder).tokenizer.tokenize("HELLO") == ["hello"]
    (folder / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert uer.load(folder).tokenizer.tokenize("HELLO") == ["[UNK]"]
    assert uer.load(folder, do_lower_case=True).tokenizer.tokenize("HELLO") == ["hello"]
    vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").replace("[CLS]", "<cls>")
    (folder / "vocab.txt").write_text(vocabulary, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"cls_token": "<cls>", "bos_token": null}')
    assert uer.load(folder).tokenizer.vocab.special_token("cls") == "<cls>"  # transformers 5 names them there alone
    assert build_tokenizer(TokenizerConfig(**tokenizer_settings(folder))).vocab.special_token("cls") == "<cls>"
    (folder / "tokenizer_config.json").write_text('{"cls_token": "<cls>", "tokenize_chinese_chars": false}')
    with pytest.raises(UserError, match="tokenize_chinese_chars"):
        uer.load(folder)


def test_texts_are_cut_as_the_folder_s_tokenizer_cuts_them(make_folder, theirs, tmp_path):
    shutil.copytree(make_folder("BertForSequenceClassification", num_labels=3), tmp_path / "m")
    (tmp_path / "m/tokenizer_config.json").write_text('{"model_max_length": 9, "truncation_side": "left"}')
    model, tokenizer = theirs(tmp_path / "m", "BertForSequenceClassification")
    inputs = tokenizer(TEXTS, truncation=True, padding=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] == 9
    with torch.no_grad():
        expected = model(**inputs).logits.softmax(-1)
    found = [list(prediction.probabilities.values()) for prediction in uer.load(tmp_path / "m").predict(TEXTS)]
    assert np.allclose(found, expected, atol=1e-5)


def test_tokens_that_were_added_to_a_folder_are_entries_and_named(make_folder, theirs, tmp_path):
    model, tokenizer = theirs(make_folder("BertForSequenceClassification", num_labels=3),
                              "BertForSequenceClassification")
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(make_folder("BertForSequenceClassification", num_labels=3) / "vocab.txt", tmp_path)  # transformers 4's
    tokenizer.add_tokens(["公园"])
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="added tokens of its tokenizer are read in pieces .*: 公园$"):
        assert uer.load(tmp_path).tokenizer.vocab.tokens == [*TOKENS, "公园"]


def test_importing_uer_is_light():
    code = "import sys, uer; print(uer.__version__, 'torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [uer.__version__, "False", "False"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_vectors(make_folder):
    folder = make_folder("BertForMaskedLM")
    cpu, gpu = uer.load(folder, device="cpu"), uer.load(folder, device="cuda")
    for pooling in ("first", "mean", "max", "last"):
        assert np.abs(cpu.encode(TEXTS, pooling) - gpu.encode(TEXTS, pooling)).max() < 1e-5
