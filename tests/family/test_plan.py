"""The plan: parameters, FLOPs, memory, hours, and how many models share a device."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from transformers import BertConfig, BertForMaskedLM

from uer import cli
from uer.config import ModelConfig, flag
from uer.convert.architectures import ARCHITECTURES
from uer.data.schema import Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, save_dataset
from uer.errors import UserError
from uer.family.config import MachineConfig
from uer.family.costs import cost_of, fitted, stage_memory
from uer.family.devices import Devices, find_devices, named_devices
from uer.family.measurements import Measurements, measure
from uer.family.plan import make_plan
from uer.family.recipe import RECIPES, Recipe, Stage
from uer.family.sizes import resolve
from uer.family.teaching import Teaching
from uer.meta_device import Unfilled
from uer.planning.flops import parameter_count
from uer.planning.hardware import known_gpu
from uer.runtime.precision import Choice
from uer.text import hours

VOCAB = 21128
H100 = named_devices("h100", 8)


@pytest.fixture(scope="module")
def sizes(root):
    @dataclass(frozen=True)
    class File:
        config_path: str | None = flag(None, "")

    def read(path):
        return cli.parse("", (File, ModelConfig), ["--config_path", path])[1]

    return resolve(("all",), root / "models" / "bert", read)


def flops_by_hand(hidden, layers, length):
    """Of a token: three times the forward pass, whose last layer answers 15% of the tokens only; a layer has 4 H^2
    parameters in its attention and 8 H^2 in its feed-forward."""
    predicted = round(0.15 * length)
    full = 2 * length * 12 * hidden**2 + 4 * length**2 * hidden
    last = 2 * length * 2 * hidden**2 + 2 * predicted * 10 * hidden**2 + 4 * predicted * length * hidden
    return 3 * ((layers - 1) * full + last + 2 * predicted * (hidden**2 + hidden * VOCAB)) / length


def test_the_smallest_and_the_largest_size_cost_what_the_formula_says(sizes):
    for size in (sizes[0], sizes[-1]):
        cost = cost_of(size, RECIPES["uer"], VOCAB, H100, MachineConfig())
        layers, hidden = size.config.layers_num, size.config.hidden_size
        expected = [flops_by_hand(hidden, layers, 128) * 512 * 128 * 10**6,
                    flops_by_hand(hidden, layers, 512) * 128 * 512 * 250_000]
        assert cost.flops == pytest.approx(expected, rel=1e-12)


def test_the_whole_family_costs_what_is_published(sizes):
    plan = make_plan(sizes, RECIPES["uer"], VOCAB, H100, MachineConfig())
    base = next(cost for cost in plan.costs if cost.size.name == "L-12_H-768")
    assert sum(base.flops) == pytest.approx(4.22e19, rel=0.01)
    assert sum(sum(cost.flops) for cost in plan.costs) == pytest.approx(2.36e20, rel=0.01)


def test_hours_follow_from_flops(sizes):
    for gpus, devices in ((8, H100), (2, named_devices("A100", 2))):
        cost = cost_of(sizes[0], RECIPES["uer"], VOCAB, devices, MachineConfig(mfu=0.4))
        assert cost.hours == pytest.approx(sum(cost.flops) / (gpus * devices.peak_flops * 0.4) / 3600)
    alone = cost_of(sizes[0], RECIPES["uer"], VOCAB, H100, MachineConfig(mfu=0.4, gpus_per_model=1))
    together = cost_of(sizes[0], RECIPES["uer"], VOCAB, H100, MachineConfig(mfu=0.4))
    assert alone.hours == pytest.approx(8 * together.hours)


def test_all_24_configurations_are_what_they_are_called(sizes):
    assert len(sizes) == 24
    for size in sizes:
        layers, hidden = (int(part.split("-")[1]) for part in size.name.split("_"))
        assert (size.config.layers_num, size.config.hidden_size) == (layers, hidden)


def test_the_smallest_and_the_largest_size_have_the_parameters_of_transformers(sizes):
    for size in (sizes[0], sizes[-1]):
        with Unfilled():
            theirs = BertForMaskedLM(BertConfig(**ARCHITECTURES["bert"].config_json(size.config, VOCAB, "mlm")))
        # The segment embedding has a third row for padding, which transformers' has not.
        assert parameter_count(size.config, VOCAB) == theirs.num_parameters() + size.config.hidden_size


def test_the_price_is_that_of_all_devices_until_the_end(sizes):
    plan = make_plan(sizes[:1], RECIPES["uer"], VOCAB, H100, MachineConfig(mfu=0.4, price_per_hour=3.0))
    assert plan.price == pytest.approx(plan.costs[0].hours * 8 * 3.0)


def test_the_printed_plan(sizes):
    plan = make_plan(sizes, RECIPES["uer"], VOCAB, H100, MachineConfig(price_per_hour=3.0))
    text = "\n".join([*plan.lines(done=["L-2_H-128"]), *plan.start_lines()])
    assert "1,000,000 steps of 512 x 128 tokens (8 devices x 64 rows x 1 micro-batch) at 0.0001" in text
    row = next(line for line in text.split("\n") if line.startswith("L-2_H-128"))
    assert all(word in row for word in ("tiny 2/128", "3.2 M", "4.2 4.9", "3.53e+17", "1.01 1.11", "done"))
    assert "24 models: 2.36e+20 FLOP" in text and "8 x H100 at 989 TFLOP/s" in text and "at 3 an hour" in text
    assert text.endswith("several at once on one device: L-2_H-128")
    assert max(map(len, text.split("\n"))) <= 130


def test_small_models_share_a_gpu_and_large_ones_do_not(sizes):
    costs = {size.name: cost_of(size, RECIPES["uer"], VOCAB, H100, MachineConfig()) for size in sizes}
    assert costs["L-2_H-128"].at_once > costs["L-4_H-256"].at_once == costs["L-12_H-768"].at_once == 1
    explicit = cost_of(sizes[0], RECIPES["uer"], VOCAB, H100, MachineConfig(parallel_models="3"))
    assert explicit.at_once == 3
    full = cost_of(sizes[0], RECIPES["uer"], VOCAB, H100, MachineConfig(mfu=0.4))
    assert full.at_once == 1  # a model that reaches 40% alone leaves nothing to fill
    idle = MachineConfig(mfu=0.01)
    small_gpu = Devices("small", "cuda", 8, H100.peak_flops, 3 << 30)
    assert cost_of(sizes[0], RECIPES["uer"], VOCAB, H100, idle).at_once == 8
    assert cost_of(sizes[0], RECIPES["uer"], VOCAB, small_gpu, idle).at_once == 2  # two fit into its memory
    assert cost_of(sizes[0], RECIPES["uer"], VOCAB, Devices("c", "cpu", 1, 1e11, 1 << 33), MachineConfig()).at_once == 1


def test_models_take_turns_where_processes_cannot_run_at_the_same_time(sizes):
    """Without CUDA MPS a plan trains one model at a time; three that are asked for take three times as long."""
    off = replace(H100, concurrent=False)
    assert named_devices("H100", 8, MachineConfig(mps="off")) == off
    alone, three = (cost_of(sizes[0], RECIPES["uer"], VOCAB, off, MachineConfig(parallel_models=number))
                    for number in ("auto", "3"))
    assert (alone.at_once, alone.shared_hours) == (1, alone.hours)
    assert (three.at_once, three.shared_hours) == (3, pytest.approx(3 * three.hours))
    overlapping = cost_of(sizes[0], RECIPES["uer"], VOCAB, H100, MachineConfig(parallel_models="3"))
    assert overlapping.hours < overlapping.shared_hours < 2 * overlapping.hours  # it waits half of its time
    text = "\n".join(make_plan(sizes[:1], RECIPES["uer"], VOCAB, off, MachineConfig()).lines())
    assert "without CUDA MPS processes on one GPU take turns" in text


def test_a_micro_batch_is_as_large_as_memory_allows(sizes):
    by_name, stage = {size.name: size.config for size in sizes}, RECIPES["uer"].stages[0]
    one = replace(H100, count=1)

    def rows(name, devices, changes=MachineConfig(), stage=stage):  # noqa: B008 (frozen)
        return fitted(stage, by_name[name], VOCAB, devices, changes, None).split(changes.gpus_per_model or 1)

    assert rows("L-2_H-128", one) == rows("L-12_H-768", one) == (512, 1)
    large, small = (rows("L-12_H-768", replace(one, memory_bytes=gib << 30)) for gib in (24, 12))
    assert (large, small) == ((128, 4), (64, 8))
    for gib, (batch_size, _) in ((24, large), (12, small)):
        room = 0.8 * (gib << 30) - (1 << 30)
        fits = [stage_memory(by_name["L-12_H-768"], VOCAB, replace(stage, batch_size=size), 1, None) <= room
                for size in (batch_size, 2 * batch_size)]
        assert fits == [True, False]
    assert rows("L-12_H-768", replace(one, memory_bytes=24 << 30), MachineConfig(parallel_models="2")) == (64, 8)
    assert rows("L-2_H-128", one, stage=replace(stage, automatic=False)) == (64, 8)  # --batch_size 64
    assert rows("L-2_H-128", Devices("c", "cpu", 1, 1e11, 1 << 38)) == (64, 8)
    plan = make_plan([sizes[0], sizes[-1]], RECIPES["uer"], VOCAB, replace(one, memory_bytes=24 << 30), MachineConfig())
    assert "(1 device x 512 rows in micro-batches of 128 to 512, by size)" in "\n".join(plan.lines())


def test_real_tokens_are_counted_and_token_slots_stand_beside_them(sizes):
    slots = make_plan(sizes[:1], RECIPES["uer"], VOCAB, H100, MachineConfig())
    real = make_plan(sizes[:1], RECIPES["uer"], VOCAB, H100, MachineConfig(), None, Measurements((0.5, 0.25), "by x"))
    assert sum(real.costs[0].flops) == pytest.approx(
        flops_by_hand(128, 2, 64) * 512 * 64 * 10**6 + flops_by_hand(128, 2, 128) * 128 * 128 * 250_000)
    assert real.hours < slots.hours and real.costs[0].memory_bytes == slots.costs[0].memory_bytes
    text = " ".join("\n".join(real.lines()).split())
    assert "32.8 billion tokens in 65.5 billion token slots" in text
    assert "50% and 25% of the token slots are tokens (by x)" in text
    assert "36.9 billion tokens in 81.9 billion token slots each" in text
    assert "every token slot is counted as a token" in " ".join("\n".join(slots.lines()).split())
    modern = make_plan(sizes[:1], RECIPES["modern"], VOCAB, H100, MachineConfig())
    assert "token slot" not in "\n".join(modern.lines())  # its rows have no padding


def test_what_is_measured_of_the_corpus(tmp_path):
    paths = {128: tmp_path / "a.pt", 512: tmp_path / "b.pt"}
    vocabs = {"src": VocabInfo("ab", 100, {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}, {"kind": "bert"})}
    unknown = measure(MachineConfig(), RECIPES["uer"], H100, paths)
    assert (unknown.fill, unknown.fill_of(1)) == ((), 1.0)
    for length, lengths in ((128, [128, 64]), (512, [128])):
        info = DatasetInfo(FORMAT_VERSION, "mlm", length, {"src": Column()}, {"src": length}, vocabs, {}, True)
        save_dataset(paths[length], info, {"src": np.zeros(sum(lengths))}, {"src": np.cumsum([0, *lengths])})
    assert measure(MachineConfig(), RECIPES["uer"], H100, paths).fill == (0.75, 0.25)
    given = measure(MachineConfig(fill=(0.4,)), RECIPES["uer"], H100, paths)
    assert (given.fill, given.source) == ((0.4, 0.4), "by --fill")
    with pytest.raises(UserError, match="--fill: one number is needed, or one for each of 2 stages"):
        measure(MachineConfig(fill=(0.4, 0.3, 0.2)), RECIPES["uer"], H100, paths)
    assert MachineConfig(fill=(0.0,)).problems() == ["--fill must lie between 0 and 1, and not be 0"]


def test_the_advice_on_gpus_for_each_model(sizes):
    """24 models on 8 GPUs lose less to the all-reduce side by side; one model uses all GPUs."""
    all_on_each = make_plan(sizes, RECIPES["uer"], VOCAB, H100, MachineConfig())
    advice = all_on_each._division_advice()
    pairs = make_plan(sizes, RECIPES["uer"], VOCAB, H100, MachineConfig(gpus_per_model=2))
    assert advice[0].startswith(f"with --gpus_per_model 2 it would take {hours(pairs.hours)}: each model on 2 GPUs")
    assert pairs._division_advice() == []
    assert make_plan(sizes[-1:], RECIPES["uer"], VOCAB, H100, MachineConfig())._division_advice() == []
    alone = make_plan(sizes[-1:], RECIPES["uer"], VOCAB, H100, MachineConfig(gpus_per_model=1))
    assert "--gpus_per_model 8" in alone._division_advice()[0]


def test_a_teacher_costs_what_its_forward_pass_does(sizes):
    by_name = {size.name: size for size in sizes}
    base, tiny = by_name["L-12_H-768"], by_name["L-2_H-128"]
    teaching = Teaching(base, None, parameter_count(base.config, VOCAB), 0.5, 2.0)
    plain, taught = (cost_of(tiny, RECIPES["uer"], VOCAB, H100, MachineConfig(), who) for who in (None, teaching))
    own = cost_of(base, RECIPES["uer"], VOCAB, H100, MachineConfig(), teaching)
    assert own.teacher_flops == 0 and own.waits_for == "" and taught.waits_for == "L-12_H-768"
    assert taught.teacher_flops == pytest.approx(sum(own.flops) / 3)
    assert sum(taught.flops) == pytest.approx(sum(plain.flops) + sum(own.flops) / 3)
    compute = sum(step.compute * stage.total_steps for step, stage in zip(own.steps, RECIPES["uer"].stages)) / 3600
    assert taught.teacher_hours == pytest.approx(compute / 3) and compute < own.hours
    assert taught.hours == pytest.approx(plain.hours + taught.teacher_hours)
    assert taught.hours == pytest.approx(sum(taught.flops) / (8 * H100.peak_flops * taught.mfu) / 3600)
    assert taught.memory_bytes > plain.memory_bytes + 4 * own.parameters
    plan = make_plan(sizes, RECIPES["uer"], VOCAB, H100, MachineConfig(price_per_hour=3.0), teaching)
    text = " ".join("\n".join(plan.lines()).split())
    assert "teacher: L-12_H-768 (soft_alpha 0.5, soft_temperature 2); 23 smaller sizes learn from it" in text
    assert "teacher's FLOP teacher's hours" in text and "at 3 an hour" in text


def test_settings_that_cannot_work_are_refused(sizes):
    with pytest.raises(UserError, match=r"--device_name: 'H101' is unknown; choose from: .*H100"):
        find_devices(MachineConfig(device_name="H101"))
    with pytest.raises(UserError, match="--gpus_per_model 3: 8 devices cannot be divided"):
        make_plan(sizes, RECIPES["uer"], VOCAB, H100, MachineConfig(gpus_per_model=3))
    assert "--parallel_models must be auto or a number" in MachineConfig(parallel_models="0").problems()[0]
    assert "run each pretrain.py command under torchrun" in MachineConfig(torchrun="--nnodes 2").problems()[0]
    assert MachineConfig(mfu=1.5).problems() == ["--mfu must lie between 0 and 1, and not be 0"]


def test_a_crowded_gpu_is_warned_of(sizes):
    recipe = Recipe("x", (Stage(512, 10, 512, 512, 1e-4),))
    plan = make_plan(sizes[-1:], recipe, VOCAB, named_devices("T4", 1), MachineConfig())
    assert any("may not fit" in line for line in plan.lines())


def test_hours_are_shown_in_the_unit_that_suits_them():
    assert [hours(value) for value in (0.001, 0.2, 30.26, 100)] == ["4 s", "12 min", "30.3 h", "4.2 days"]


def test_a_gpu_without_bf16_is_reckoned_in_fp32(sizes):
    automatic, half = MachineConfig(), MachineConfig(precision="fp16")
    for name, single, double in (("V100", 15.7e12, 125e12), ("T4", 8.1e12, 65e12)):
        slow, fast = named_devices(name, 8, automatic), named_devices(name, 8, half)
        assert (slow.peak_flops, slow.precision, fast.peak_flops) == (single, "fp32", double)
        plan = make_plan(sizes[-1:], RECIPES["uer"], VOCAB, slow, automatic)
        faster = make_plan(sizes[-1:], RECIPES["uer"], VOCAB, fast, half)
        text = "\n".join(plan.lines())
        assert plan.hours > 5 * faster.hours and f"--precision fp16 would take {hours(faster.hours)}" in text
        assert f"at {single / 1e12:.3g} TFLOP/s in fp32" in text and "no bf16" not in "\n".join(faster.lines())
    assert named_devices("A100", 8, automatic).precision == "bf16"
    assert named_devices("A100", 8, MachineConfig(precision="fp32")).peak_flops == 156e12


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_cpu_is_planned_in_the_precision_that_its_runs_choose(precision, monkeypatch):
    monkeypatch.setattr("uer.family.devices.cpu_choice", lambda: Choice(precision))
    assert find_devices(MachineConfig(device="cpu", peak_flops=3e11, memory_gib=2)).precision == precision


def test_a_gpu_that_the_table_lacks(sizes):
    with pytest.raises(UserError, match="--peak_flops and --memory_gib"):
        named_devices("B9000", 8)
    config = MachineConfig(peak_flops=2e15, memory_gib=192.5)
    devices = named_devices("B9000", 4, config)
    assert (devices.name, devices.count, devices.peak_flops) == ("B9000", 4, 2e15)
    assert devices.memory_bytes == round(192.5 * 2**30)
    assert "4 x B9000 at 2e+03 TFLOP/s in bf16 (by --peak_flops)" in "\n".join(
        make_plan(sizes[:1], RECIPES["uer"], VOCAB, devices, config).lines())
    known = named_devices("H100", 1, config)
    assert (known.peak_flops, known.memory_bytes) == (2e15, round(192.5 * 2**30))
    here = find_devices(MachineConfig(device="cpu", peak_flops=3e11, memory_gib=2))
    assert (here.peak_flops, here.memory_bytes) == (3e11, 2 << 30)
    assert any("--peak_flops" in line for line in MachineConfig(peak_flops=125.0).problems())
    assert any("--memory_gib" in line for line in MachineConfig(memory_gib=-1.0).problems())


@pytest.mark.parametrize(("name", "known"), [
    ("NVIDIA A100-SXM4-80GB", "A100"), ("Tesla V100-SXM2-16GB", "V100"), ("Tesla T4", "T4"), ("NVIDIA L40S", "L40S"),
    ("NVIDIA GeForce RTX 4090", "RTX 4090"), ("NVIDIA RTX A1000", None), ("NVIDIA T400", None), ("NVIDIA A10G", None)])
def test_names_that_cuda_gives(name, known):
    assert known_gpu(name) == known
