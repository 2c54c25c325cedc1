"""An update in parts is the update of the whole batch: to rounding, and with dropout to the bit each time."""

from dataclasses import dataclass
from functools import partial

import pytest
import torch

from tests.contract import test_encoders, test_targets
from tests.tools.configs import model_config
from uer.config import DUAL, ParallelConfig, TrainConfig
from uer.data.batch import Batch, Labels, Side
from uer.layers.cpu.random_bits import KeepMasks, masks_from
from uer.model import build_model
from uer.optim import AdamW, parameter_groups
from uer.runtime.launch import RankInfo
from uer.runtime.parallel import connect
from uer.runtime.precision import Precision
from uer.runtime.threads import Split, Workers
from uer.training.threads import ThreadedUpdate, add_gradients, cut_rows, draws_of_torch
from uer.training.update import Parts, StepModule, Update

WORLD = connect(RankInfo(), ParallelConfig(device="cpu"))


@dataclass
class Loader:
    samples_per_epoch: int = 7
    samples_per_step: int = 7


def update_of(model, threads: int, precision: str = "fp32", **settings) -> Update:
    """`threads` workers; 0: the plain update."""
    config = TrainConfig(output_model_path="none", **settings)
    parts = Parts(model, StepModule(model), Loader(), AdamW(parameter_groups(model), lr=0.01), lambda step: 0.01,
                  Precision(precision, WORLD.device), reporter=None, saver=None)
    if not threads:
        return Update(parts, config, WORLD)
    return ThreadedUpdate(parts, config, WORLD, workers=Workers(Split(threads, 1), 2), seeded=masks_from,
                          trim=not model.encoder.reads_padding)


def figures(update: Update, batches: list[Batch], steps: int = 1) -> dict[str, torch.Tensor]:
    """The sums, and the gradients of the last update."""
    for step in range(steps):
        update(batches, step)
    return {**update.sums.collect(WORLD), **{name: p.grad for name, p in update.parts.model.named_parameters()}}


def assert_parts_equal_whole(make, batch: Batch, micro_batches: int = 1) -> None:
    whole = figures(update_of(make(), 0, max_grad_norm=0.5), [batch] * micro_batches)
    for threads in (2, 4):
        parts = figures(update_of(make(), threads, max_grad_norm=0.5), [batch] * micro_batches)
        assert parts.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-4, atol=1e-6, msg=partial("{}: {}".format, name))


@pytest.mark.parametrize("names", [(name,) for name in test_targets.LABELS] + test_targets.PAIRS)
def test_every_target_in_parts(names):
    assert_parts_equal_whole(lambda: test_targets.model_for(*names), test_targets.batch_for(*names))


# "dual" encodes pairs of texts and is not pretrained.
@pytest.mark.parametrize("name", [name for name in test_encoders.SETTINGS if name != DUAL])
def test_every_encoder_in_parts(name):
    """In its first case: that rows do not depend on one another is tested for each in tests/contract."""
    case = test_encoders.SETTINGS[name][0]

    def make():
        torch.manual_seed(2)
        return build_model(model_config(**{**test_encoders.BASE, **case, "encoder": name, "dropout": 0.0,
                                           "target": ("sp",)}), 37)

    labels = Labels(torch.tensor([[0], [1], [1], [-100], [0], [1], [0]]), torch.zeros(7, 1, dtype=torch.int64))
    src = torch.randint(5, 37, (7, 13), generator=torch.Generator().manual_seed(4)) * test_encoders.SEG.clamp(max=1)
    assert_parts_equal_whole(make, Batch(Side(src, test_encoders.SEG), {"sp": labels}, torch.arange(7)))


def test_micro_batches_and_scales_in_parts():
    batch = test_targets.batch_for("mlm", "sp")
    assert_parts_equal_whole(lambda: test_targets.model_for("mlm", "sp"), batch, micro_batches=2)
    whole, parts = (figures(update_of(test_targets.model_for("mlm"), threads, "bf16"), [batch]) for threads in (0, 2))
    torch.testing.assert_close(parts["norm"], whole["norm"], rtol=0.05, atol=0.0)


def with_dropout(settings: dict | None = None):
    torch.manual_seed(3)
    return build_model(model_config(**{"emb_size": 32, "hidden_size": 32, "feedforward_size": 19, "heads_num": 4,
                                       "layers_num": 2, "dropout": 0.3, "max_seq_length": 13, "target": ("mlm",),
                                       **(settings or {})}), 37)


def test_dropout_has_the_same_bits_in_every_run_and_at_any_speed():
    batches = [test_targets.batch_for("mlm")] * 2
    first = figures(update_of(with_dropout(), 4), batches, steps=3)
    slow = update_of(with_dropout(), 4)
    slow.workers = Workers(Split(4, 1), 1)  # one part after another
    torch.manual_seed(1234)  # torch's own generator decides nothing
    again = figures(slow, batches, steps=3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = figures(update_of(with_dropout(), 4, seed=8), batches, steps=3)
    assert not torch.equal(first["loss"], other["loss"])


def test_parts_steps_and_micro_batches_draw_unlike_masks():
    update = update_of(with_dropout(), 2)
    seeds = []
    update.seeded = lambda seed: (seeds.append(seed), masks_from(seed))[1]
    figures(update, [test_targets.batch_for("mlm")] * 2, steps=2)
    assert len(seeds) == len(set(seeds)) == 8


def test_masks_of_a_thread_are_its_own():
    with masks_from(5):
        first = KeepMasks(0.5).draw((100,))
        with masks_from(6):
            other = KeepMasks(0.5).draw((100,))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    with masks_from(5):
        again = KeepMasks(0.5).draw((100,))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_of_torchs_own_generator_is_found():
    recurrent = {"encoder": "lstm", "embedding": ("word",)}
    assert draws_of_torch(with_dropout(recurrent)) and not draws_of_torch(with_dropout())
    assert not draws_of_torch(with_dropout({**recurrent, "dropout": 0.0}))
    assert draws_of_torch(torch.nn.Dropout(0.1)) and not draws_of_torch(torch.nn.Dropout(0.0))


def test_rows_are_cut_by_length_with_equal_work():
    assert [rows.tolist() for rows in cut_rows(torch.tensor([4, 9, 2, 5, 4]), 2)] == [[1, 3], [0, 4, 2]]
    assert [rows.tolist() for rows in cut_rows(torch.tensor([7, 7, 7, 7]), 2)] == [[0, 1], [2, 3]]
    assert [rows.tolist() for rows in cut_rows(torch.tensor([90, 1]), 4)] == [[0], [1]]
    assert [rows.tolist() for rows in cut_rows(torch.tensor([0, 0]), 2)] == [[0, 1]]
    lengths = torch.randint(1, 129, (32,), generator=torch.Generator().manual_seed(1))
    work = [int(lengths[rows].sum()) for rows in cut_rows(lengths, 4)]
    assert sum(work) == lengths.sum() and max(work) - min(work) <= 2 * lengths.max()


def test_gradients_that_share_memory_are_added_each_for_itself():
    """autograd gives both summands of a sum the same tensor, and an expanded one for the sum of a vector."""
    parameters = [torch.nn.Parameter(torch.zeros(3)) for _ in range(4)]
    parts = []
    for factor in (1.0, 10.0):
        a, b, c, _ = parameters
        loss = ((a + b) * torch.tensor([1.0, 2.0, 3.0])).sum() * factor + c.sum()
        parts.append(torch.autograd.grad(loss, parameters, allow_unused=True))
    add_gradients(Workers(Split(2, 1), 2), parameters, parts)
    assert [None if p.grad is None else p.grad.tolist() for p in parameters] == [[11, 22, 33], [11, 22, 33], [2, 2, 2],
                                                                                 None]


def test_an_error_in_a_part_ends_the_update_with_its_message():
    update = update_of(test_targets.model_for("mlm"), 2)
    calls = []

    def broken(batch, counts):
        calls.append(len(batch.samples))
        raise RuntimeError(f"no memory for {len(batch.samples)} rows")

    update.parts.module = broken
    before = [parameter.clone() for parameter in update.parameters]
    with pytest.raises(RuntimeError, match="no memory for 1 rows"):
        update([test_targets.batch_for("mlm")], 0)
    assert len(calls) == 2 and all(torch.equal(a, b) for a, b in zip(before, update.parameters))


def test_a_poisoned_part_skips_the_update():
    model = test_targets.model_for("mlm")
    update = update_of(model, 2)
    whole = update.parts.module
    update.parts.module = lambda batch, counts: (
        (loss := whole(batch, counts))[0] * (float("inf") if len(batch.samples) == 1 else 1.0), loss[1])
    before = [parameter.clone() for parameter in model.parameters()]
    update([test_targets.batch_for("mlm")], 0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
    assert update.watch.look(1, True) == ([0], 1)


def test_a_run_in_parts_goes_on_to_the_same_bits(playground):
    """On a machine with other cores, too."""
    flags = {"total_steps": 6, "save_checkpoint_steps": 3, "report_steps": 3, "batch_size": 8, "accumulation_steps": 2}
    whole = playground.run("whole", threads=3, dev_fraction=0.1, **flags)
    assert "CPU process of 3 threads, a part of each batch for each" in whole.output
    job = playground.start("m", kill={"rename_to": "m-6"}, threads=3, dev_fraction=0.1, **flags)
    job.wait()
    again = playground.run("m", threads=2, dev_fraction=0.1, **flags)
    assert "began with 3 threads and goes on so" in again.output and "resumed after step 3" in again.output
    assert (playground.folder / "m-6").read_bytes() == (playground.folder / "whole-6").read_bytes()
