"""Several datasets, one backbone."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.finetuning.conftest import examples as drawn
from tests.finetuning.conftest import tsv
from uer.checkpoint.files import load_weights, save_weights
from uer.errors import UserError
from uer.finetuning.batches import Batch, Examples, batches_in_epoch, epoch_batches
from uer.finetuning.command import finetune
from uer.finetuning.infer import infer
from uer.finetuning.rows import Ragged, Sequences
from uer.finetuning.tasks.multi_task import Dataset, LabelSet, MultiTask


def test_a_batch_holds_examples_of_one_group():
    rows = Sequences(Ragged.of([np.array([2, 3])] * 17), np.full(17, 2))
    examples = Examples(rows, groups=np.repeat([0, 1, 2], [3, 10, 4]))
    batches = epoch_batches(examples, 4, seed=1, epoch=1)
    assert len(batches) == batches_in_epoch(examples, 4) == 1 + 3 + 1
    assert all(len(set(examples.groups[batch])) == 1 for batch in batches)
    assert sorted(np.concatenate(batches)) == list(range(17))
    others = epoch_batches(examples, 4, seed=1, epoch=2)
    assert [batch.tolist() for batch in others] != [batch.tolist() for batch in batches]


def test_the_loss_is_that_of_the_own_head():
    task = MultiTask([Dataset("a", LabelSet(("0", "1"))), Dataset("b", LabelSet(("x", "y", "z")))])
    logits = torch.randn(4, 5)
    batch = Batch(None, None, {"dataset": torch.tensor([0, 1, 1, 0]), "label": torch.tensor([1, 2, 0, 0])})
    wanted = -sum(part.log_softmax(0)[label] for part, label in
                  ((logits[0, :2], 1), (logits[1, 2:], 2), (logits[2, 2:], 0), (logits[3, :2], 0)))
    torch.testing.assert_close(task.loss(logits, batch), wanted)


@pytest.fixture(scope="module")
def trained(shared_tiny):
    """Datasets `first`, the task of all tests here, and `second`, where long texts have a label of their own."""
    for folder, seed in (("first", 1), ("second", 1)):
        (shared_tiny.folder / folder).mkdir()
        for name, count in (("train.tsv", 96), ("dev.tsv", 23)):
            rows = drawn(count, seed + count)
            if folder == "second":
                rows = [("long" if len(text) > 10 else f"short {label}", text) for label, text in rows]
            shared_tiny.write(f"{folder}/{name}", tsv(rows))
    folders = [shared_tiny.path("first"), shared_tiny.path("second")]
    finetune("test", MultiTask, shared_tiny.flags(train_path=None, dev_path=None, dataset_path_list=folders))
    return shared_tiny


def test_predictions_are_what_was_evaluated(trained):
    saved = json.loads(Path(trained.path("out/model.json")).read_text("utf-8"))
    assert [each["labels"] for each in saved["datasets"]] == [["0", "1"], ["long", "short 0", "short 1"]]
    dev, state = saved["training"]["dev"], load_weights(trained.path("out/model.bin"))
    assert state["output_layers_2.1.weight"].shape == (3, 16)
    assert dev["accuracy"] == pytest.approx((dev["accuracy_first"] + dev["accuracy_second"]) / 2)
    for number, name in enumerate(("first", "second")):
        path = trained.path(f"{name}/dev.tsv")
        infer("test", MultiTask, ["--load_model_path", trained.path("out/model.bin"), "--test_path", path, "--device",
                                  "cpu", "--prediction_path", trained.path("out.tsv"), "--output_logits",
                                  "--output_prob", "--labels_num_list", "2", "3"])
        header, *lines = Path(trained.path("out.tsv")).read_text("utf-8").splitlines()
        gold = [line.split("\t")[0] for line in Path(path).read_text("utf-8").splitlines()[1:]]
        found = [line.split("\t")[0].split("|")[number] for line in lines]
        assert np.mean([a == b for a, b in zip(found, gold, strict=True)]) == pytest.approx(dev[f"accuracy_{name}"])
    assert header == "label\tlogits\tprob" and len(lines[0].split("\t")[2].split("|")[1].split()) == 3


def test_weights_of_uer_py_need_the_numbers_of_labels(trained):
    save_weights(load_weights(trained.path("out/model.bin")), trained.path("theirs.bin"))
    flags = ["--load_model_path", trained.path("theirs.bin"), "--test_path", trained.path("dev.tsv"), "--device",
             "cpu", "--prediction_path", trained.path("out.tsv"), "--config_path", trained.path("config.json"),
             "--vocab_path", trained.path("vocab.txt"), "--seq_length", "16"]
    with pytest.raises(UserError, match="--labels_num_list is required"):
        infer("test", MultiTask, flags)
    infer("test", MultiTask, [*flags, "--labels_num_list", "2", "3"])
    assert Path(trained.path("out.tsv")).read_text("utf-8").splitlines()[1][1] == "|"


def test_an_update_leaves_the_other_heads_as_they_are(trained):
    from tests.tools.configs import model_config
    task = MultiTask([Dataset("a", LabelSet(("0", "1"))), Dataset("b", LabelSet(("0", "1")))])
    model = task.build(model_config(**json.loads(Path(trained.path("config.json")).read_text("utf-8"))), 11).train()
    src = torch.tensor([[2, 7, 3]])
    batch = Batch(src, torch.ones_like(src), {"dataset": torch.tensor([1]), "label": torch.tensor([0])})
    task.loss(model(batch), batch).backward()
    assert model.output_layers_1[0].weight.grad is None and model.output_layers_1[1].weight.grad is not None


def test_the_files_of_all_folders_are_read(tmp_path):
    folders = [str(tmp_path / name) for name in ("a", "b")]
    task = MultiTask([Dataset(folder[-1], LabelSet(("0", "1")), folder) for folder in folders])
    assert task.files("dev.tsv") == [f"{folder}/dev.tsv" for folder in folders]
