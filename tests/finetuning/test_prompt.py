"""Prompts: rows, scores of answers, and models that were never fine-tuned."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from uer.checkpoint.files import load_weights, save_weights
from uer.errors import UserError
from uer.finetuning.batches import collate
from uer.finetuning.command import finetune
from uer.finetuning.infer import infer
from uer.finetuning.readers import read_table
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.prompt import PromptClassification, answer_scores, read_prompt
from uer.tokenizers import BertTokenizer, Vocab

SENTIMENT = {"template": "[TEXT_A]子[ANS]", "answer_words": {"0": "丑", "1": "寅卯"}}


def test_scores_of_answers_by_hand():
    """Answers [0, 3] and [2]: at the first mask the softmax is that of [3, 0, 2, 0], at the second of [0, 0, 0, 7]."""
    logits = torch.tensor([[[3.0, 1.0, 2.0, 5.0], [4.0, 4.0, 4.0, 7.0]]])
    found = answer_scores(logits, torch.tensor([[[0, 3], [2, -100]]]))
    first = math.log(math.exp(3) + math.exp(2) + 2)
    second = math.log(math.exp(7) + 3)
    torch.testing.assert_close(found, torch.tensor([[(3 - first + 7 - second) / 2, 2 - first]]))


@pytest.mark.parametrize("name, prompt", [("prompt_single.tsv", "s"), ("prompt_pair.tsv", "p")])
def test_rows_are_those_of_the_original(golden, google_vocab, name, prompt):
    folder = golden / "breadth/tasks"
    wanted = json.loads((folder / "tasks.json").read_text("utf-8"))["prompt"][name]
    task = PromptClassification(read_prompt(str(folder / "prompts.json"), prompt))
    encoder = TextToRows(BertTokenizer(Vocab.load(str(google_vocab))), 24)
    examples = task.examples(str(folder / name), encoder)
    batch = collate(examples, np.arange(len(examples)), 0)
    size = batch.src.shape[1]
    assert batch.src.tolist() == [row[:size] for row in wanted["src"]]
    assert batch.seg.tolist() == [row[:size] for row in wanted["seg"]]
    answers = examples.targets["answers"][0, :, 0]
    for row, (mask, label) in enumerate(zip(examples.targets["mask"][:, 0], examples.targets["label"])):
        assert np.flatnonzero(wanted["tgt"][row]).tolist() == [mask] and wanted["tgt"][row][mask] == answers[label]


def test_a_label_that_the_prompt_lacks(tmp_path, golden):
    (tmp_path / "train.tsv").write_text("label\ttext_a\ngood\tx\n")
    task = PromptClassification(read_prompt(str(golden / "breadth/tasks/prompts.json"), "s"))
    with pytest.raises(UserError, match=r"train.tsv:2: label 'good' is not one of the 2 labels of the prompt: 0, 1"):
        task.targets(read_table(str(tmp_path / "train.tsv"), ("label", "text_a")), None)


def test_a_prompt_learns_and_predicts_what_was_evaluated(tiny):
    prompts = tiny.write("prompts.json", json.dumps({"own": SENTIMENT}))
    finetune("test", PromptClassification, tiny.flags(prompt_path=prompts, prompt_id="own", epochs_num=8,
                                                      learning_rate=0.02, test_path=tiny.path("dev.tsv"),
                                                      train_path=tiny.path("many.tsv")))
    saved = json.loads(Path(tiny.path("out/model.json")).read_text("utf-8"))
    assert saved["training"]["dev"]["accuracy"] > 0.9
    flags = ["--test_path", tiny.path("dev.tsv"), "--prediction_path", tiny.path("out.tsv"), "--device", "cpu"]
    infer("test", PromptClassification, ["--load_model_path", tiny.path("out/model.bin"), *flags])
    found = Path(tiny.path("out.tsv")).read_text("utf-8")
    gold = [line[0] for line in Path(tiny.path("dev.tsv")).read_text("utf-8").splitlines()[1:]]
    right = np.mean([one == other for one, other in zip(found.split()[1:], gold, strict=True)])
    assert right == saved["training"]["dev"]["accuracy"]
    # UER-py's weights have other names, and no settings
    state = load_weights(tiny.path("out/model.bin"))
    save_weights({name.replace("target.mlm.", "target."): value for name, value in state.items()}, tiny.path("theirs"))
    infer("test", PromptClassification, ["--load_model_path", tiny.path("theirs"), *flags, "--config_path",
                                         tiny.path("config.json"), "--vocab_path", tiny.path("vocab.txt"),
                                         "--prompt_path", prompts, "--prompt_id", "own", "--seq_length", "16"])
    assert Path(tiny.path("out.tsv")).read_text("utf-8") == found


@pytest.mark.parametrize("prompt, message", [
    ({"template": "[TEXT_A]子", "answer_words": {"0": "丑", "1": "寅"}}, r"must have \[TEXT_A\] and \[ANS\] once"),
    ({"template": "[TEXT_A][ANS]", "answer_words": {"0": "丑", "1": "丑"}}, "labels 0 and 1 have the same answer"),
    ({"template": "[TEXT_A][ANS]", "answer_words": {"0": "丑", "1": "无"}}, "cannot express the answer '无'"),
    ({"template": "[TEXT_A][ANS]", "answer_words": {"0": "丑"}}, "at least two labels"),
    ({"template": "[TEXT_A][ANS]" + "子" * 16, "answer_words": {"0": "丑", "1": "寅"}}, "20 is the least"),
    ({"template": "[TEXT_A][ANS][TEXT_B]", "answer_words": {"0": "丑", "1": "寅"}}, "no column 'text_b'"),
])
def test_bad_prompts(tiny, prompt, message):
    path = tiny.write("prompts.json", json.dumps({"own": prompt}))
    with pytest.raises(UserError, match=message):
        finetune("test", PromptClassification, tiny.flags(prompt_path=path, prompt_id="own"))


def test_the_shipped_prompts_can_be_read(root, google_vocab):
    names = json.loads((root / "models/prompts.json").read_text("utf-8"))
    encoder = TextToRows(BertTokenizer(Vocab.load(str(google_vocab))), 64)
    for name in names:
        task = PromptClassification(read_prompt("models/prompts.json", name))
        assert len(task.of_texts(["好"], ["书"] if task.pairs else None, encoder)) == 1
    with pytest.raises(UserError, match="--prompt_id none: not in"):
        read_prompt("models/prompts.json", "none")
