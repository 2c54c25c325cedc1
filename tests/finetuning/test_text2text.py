"""Text to text: rows, evaluation and predictions, scores by optional packages."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.finetuning.conftest import CONFIG
from tests.tools.configs import model_config
from uer.api.load import load
from uer.errors import UserError
from uer.finetuning.batches import IGNORED, Batch, collate
from uer.finetuning.command import finetune
from uer.finetuning.infer import infer
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.text2text import Text2Text
from uer.finetuning.text_scores import SCORES
from uer.tokenizers import BertTokenizer, BpeTokenizer, Vocab
from uer.tokenizers.bpe import BYTE_CHARACTERS

DECODER = {**CONFIG, "decoder": "transformer", "decoder_layers_num": 1, "tgt_embedding": ["word", "pos"],
           "share_embedding": True, "target": ["lm"]}


@pytest.mark.parametrize("name", ["text2text.tsv", "text2text_pair.tsv"])
def test_rows_are_those_of_the_original(golden, google_vocab, name):
    folder = golden / "breadth/tasks"
    wanted = json.loads((folder / "tasks.json").read_text("utf-8"))["text2text"][name]
    encoder = TextToRows(BertTokenizer(Vocab.load(str(google_vocab))), wanted["seq_length"])
    examples = Text2Text(wanted["tgt_seq_length"]).examples(str(folder / name), encoder)
    batch = collate(examples, np.arange(len(examples)), 0)
    for row, src in enumerate(wanted["src"]):  # the original splits the text "[SEP]" in three tokens; ours is [SEP]
        text = " ".join(map(str, src)).replace("138 9463 140", "102").split()
        assert batch.src[row].tolist() == [int(token) for token in text][:batch.src.shape[1]]
    assert set(batch.seg.unique().tolist()) <= {0, 1}
    tgt = batch.targets["tgt"]
    size = tgt.shape[1]
    assert tgt.masked_fill(tgt == IGNORED, 0).tolist() == [row[:size] for row in wanted["tgt_in"]]
    assert tgt[:, 1:].clamp(min=0).tolist() == [row[:size - 1] for row in wanted["tgt_out"]]


@pytest.fixture(scope="module")
def trained(shared_tiny):
    shared_tiny.write("config.json", json.dumps(DECODER))
    lines = Path(shared_tiny.path("dev.tsv")).read_text("utf-8").splitlines()[1:]
    rows = [f"{'甲' if label == '1' else '乙丙'}\t{text}" for label, text in (line.split("\t") for line in lines)]
    path = shared_tiny.write("data.tsv", "\n".join(["label\ttext_a", *rows]) + "\n")
    finetune("test", Text2Text, shared_tiny.flags(train_path=path, dev_path=path, tgt_seq_length=6, epochs_num=4))
    return shared_tiny


def predict(tiny, *more: str) -> list[str]:
    infer("test", Text2Text, ["--load_model_path", tiny.path("out/model.bin"), "--test_path", tiny.path("data.tsv"),
                              "--prediction_path", tiny.path("out.tsv"), "--device", "cpu", *more])
    return Path(tiny.path("out.tsv")).read_text("utf-8").splitlines()


def test_predictions_are_what_was_evaluated(trained):
    saved = json.loads(Path(trained.path("out/model.json")).read_text("utf-8"))
    header, *found = predict(trained)
    rows = [line.split("\t") for line in Path(trained.path("data.tsv")).read_text("utf-8").splitlines()[1:]]
    score = np.mean([text.replace(" ", "") == label for text, (label, _) in zip(found, rows, strict=True)])
    assert header == "label" and score == pytest.approx(saved["training"]["dev"]["exact_match"]) and score > 0.4
    assert load(trained.path("out/model.bin")).predict([rows[0][1]])[0].label == found[0]


def test_beams_and_length_of_inference(trained):
    assert len(predict(trained, "--beam_size", "3")) == len(predict(trained))
    assert all(len(text) <= 1 for text in predict(trained, "--tgt_seq_length", "2")[1:])


def test_a_prediction_is_one_line():
    """Of a byte-level vocabulary, the line feed is a token."""
    roles = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"}
    tokenizer = BpeTokenizer(Vocab([*BYTE_CHARACTERS, *roles.values()], roles, defaults={}), [])
    task, encoder = Text2Text(9), TextToRows(tokenizer, 9)
    examples = task.of_texts(["a", "b"], None, encoder)
    outputs = [np.array(tokenizer.encode(text), np.float32) for text in ("one\ntwo\r\n", "three\tfour")]
    assert task.predictions(outputs, examples, False, False) == ["label", "one two", "three four"]


@torch.no_grad()
def test_the_logits_of_a_text_are_those_that_it_was_generated_from():
    torch.manual_seed(3)
    config = model_config(**{**DECODER, "decoder_layers_num": 2, "layernorm_positioning": "pre", "dropout": 0.0})
    model = Text2Text(9).build(config, 28).eval()
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.5)
    src = torch.tensor([[2, 9, 12, 7, 3], [2, 21, 3, 0, 0]])
    ends = torch.tensor([[2, 0]] * 2)  # [PAD] ends a text here: this model begins with [SEP]
    texts = model(Batch(src, (src > 0).long(), {"ends": ends}))
    longest = max(map(len, texts))
    assert longest > 1
    tgt = torch.tensor([[2, *text, 0] + [IGNORED] * (longest - len(text)) for text in texts])
    logits = model.train()(Batch(src, (src > 0).long(), {"tgt": tgt}))
    for row, text in enumerate(texts):
        assert logits[row, :len(text)].argmax(-1).tolist() == text


def test_a_model_without_a_decoder_is_refused(tiny):
    with pytest.raises(UserError, match="the model has no decoder"):
        finetune("test", Text2Text, tiny.flags())


def test_a_missing_package_is_named(tiny, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match="--text_metrics rouge_l needs the package rouge-score"):
        Text2Text.of_training_file("", Text2Text.config_class(text_metrics=("rouge_l",)))


@pytest.mark.parametrize("name, package, half", [("bleu", "sacrebleu", 0.0), ("rouge_l", "rouge_score", 2 / 3)])
def test_scores_of_optional_packages(name, package, half):
    pytest.importorskip(package)
    right = [list("今天天气"), list("很好很好")]
    assert SCORES[name](right, right) == pytest.approx(1.0)
    # two of four tokens, and two tokens where there are four: precision 1, recall 1/2
    assert SCORES[name]([["今", "天"]], [right[0]]) == pytest.approx(half, abs=0.4 if name == "bleu" else 1e-6)
