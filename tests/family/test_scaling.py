"""The model of step times: hand-worked cases, the estimates that its constants come from, and bounds."""

import json
import re
from dataclasses import replace
from functools import partial

import pytest

from uer.errors import UserError
from uer.family.config import FamilyConfig, MachineConfig
from uer.family.devices import Devices, named_devices
from uer.family.measurements import Measurements
from uer.family.plan import make_plan
from uer.family.recipe import RECIPES
from uer.family.scaling import Batch, Measured, StepTime, all_reduce_seconds, read_step_times, step_time
from uer.family.scaling_tables import RANKS, family_lines, scaling_lines, size_lines
from uer.family.sizes import resolve
from uer.model_settings import model_settings
from uer.planning.flops import flops_per_token, parameter_count
from uer.text import hours

VOCAB = 21128
H200, H100 = named_devices("H200", 8), named_devices("H100", 8)
ROWS = Batch(64, 1, 128)


@pytest.fixture(scope="module")
def sizes(root):
    names = ("tiny", "mini", "small", "medium", "base")
    found = resolve(names, root / "models" / "bert", partial(model_settings, flag="--sizes"))
    return dict(zip(names, found))


def seconds(size, batch=ROWS, ranks=1, devices=H200, **more):
    return step_time(size, VOCAB, batch, ranks, devices, **more).seconds


def test_the_model_gives_the_estimates_that_it_comes_from(sizes):
    """Milliseconds of compiled and captured updates on an H200, estimated kernel by kernel."""
    estimated = {"tiny": 0.85, "mini": 1.7, "small": 2.95, "medium": 5.5, "base": 13.6}
    for name, milliseconds in estimated.items():
        assert 1000 * seconds(sizes[name]) == pytest.approx(milliseconds, rel=0.03), name
    assert 1000 * seconds(sizes["base"], Batch(16, 1, 512)) == pytest.approx(17.7, rel=0.03)


def test_tiny_by_hand(sizes):
    """On one H100: kernel launches, matrix products, attention and bytes; then 8 GPUs add the all-reduce."""
    flops, attention = flops_per_token(sizes["tiny"].config, VOCAB, 128), 12 * 2 * 128 * 128
    parameters = parameter_count(sizes["tiny"].config, VOCAB)
    bandwidth = 0.875 * 3.35e12
    products = 8192 * ((flops - attention) / (0.16 * 989e12) + attention / (0.08 * 989e12))
    moved = 8192 * (155 * 2 * 128 + 12 * 0.15 * VOCAB) / bandwidth
    compute, update = 84 * 2.8e-6 + products + moved, 0.2e-3 + 32 * parameters / bandwidth
    alone = step_time(sizes["tiny"], VOCAB, ROWS, 1, H100)
    assert (alone.compute, alone.update) == (pytest.approx(compute), pytest.approx(update))
    assert (alone.all_reduce, alone.exposed, alone.seconds) == (0, 0, pytest.approx(compute + update))
    assert alone.busy == pytest.approx(1 - (84 * 2.8e-6 + 0.2e-3) / (compute + update))
    ring = 2 * 7 / 8 * 4 * parameters / (0.8 * 450e9) + 14 * 2e-6
    eight = step_time(sizes["tiny"], VOCAB, ROWS, 8, H100)
    assert eight.exposed == eight.all_reduce == pytest.approx(ring)  # one flat buffer, after the backward pass
    assert 0.8 < alone.seconds / eight.seconds < 1


def test_all_reduce_by_hand():
    assert all_reduce_seconds(1e8, 1, H100) == 0
    inside = 2 * 7 / 8 * 1e8 / 360e9 + 14 * 2e-6
    assert all_reduce_seconds(1e8, 8, H100) == pytest.approx(inside)
    assert all_reduce_seconds(1e8, 16, H100) == pytest.approx(inside + 2 * 1 / 2 * 1e8 / 8 / 40e9 + 2 * 5e-6)
    assert all_reduce_seconds(1e8, 1024, H100) == pytest.approx(inside + 2 * 127 / 128 * 1e8 / 8 / 40e9 + 14 * 5e-6)
    assert all_reduce_seconds(1e8, 8, named_devices("T4", 8)) > 10 * inside  # over PCI Express


def test_a_large_model_hides_its_all_reduce_behind_the_backward_pass(sizes):
    many = step_time(sizes["base"], VOCAB, ROWS, 8, H100)
    last = all_reduce_seconds(4 * VOCAB * 768, 8, H100)  # the word embedding's gradient comes last
    assert many.exposed == pytest.approx(last) and many.exposed < many.all_reduce / 4
    short = step_time(sizes["base"], VOCAB, Batch(1, 1, 128), 512, H100)
    assert short.exposed == pytest.approx(short.all_reduce - 2 / 3 * short.compute) and short.exposed > last


@pytest.mark.parametrize("name", ["tiny", "base"])
def test_more_gpus_never_shorten_a_step_of_the_same_rows_nor_lengthen_that_of_fewer(sizes, name):
    weak = [seconds(sizes[name], ranks=ranks) for ranks in RANKS]
    assert weak == sorted(weak)
    strong = [seconds(sizes[name], Batch(512 // ranks, 1, 128), ranks) for ranks in RANKS[:6]]
    assert strong == sorted(strong, reverse=True)
    assert all(ranks * time >= strong[0] for ranks, time in zip(RANKS, strong))
    assert seconds(sizes[name], Batch(512, 8, 128)) > seconds(sizes[name], Batch(512, 1, 128))  # launches, 8 times
    assert seconds(sizes[name], Batch(64, 1, 50)) < seconds(sizes[name])  # nothing is computed for padding


def test_a_host_that_is_slower_than_the_device_is_the_limit():
    assert StepTime(1e-3, 2e-3, exposed=1e-3, host=3e-3).seconds == pytest.approx(4e-3)
    assert StepTime(1e-3, 2e-3, exposed=1e-3, host=5e-3).seconds == 5e-3


def test_given_or_cpu_mfu(sizes):
    operations = flops_per_token(sizes["tiny"].config, VOCAB, 128) * 8192
    assert seconds(sizes["tiny"], mfu=0.4, ranks=8) == pytest.approx(operations / (989e12 * 0.4))
    cpu = Devices("c", "cpu", 1, 1e11, 1 << 33)
    assert seconds(sizes["tiny"], devices=cpu) == pytest.approx(operations / (1e11 * 0.70))


@pytest.mark.parametrize("name, measured", [("tiny", 0.294), ("mini", 0.940)])
def test_updates_of_a_cpu_in_bf16_are_planned_near_the_measured_ones(sizes, name, measured):
    """Seconds of BENCHMARKS.md for 64 rows of 128, on a CPU with AMX whose products reach 1.1 TFLOP/s in bf16."""
    amx = Devices("c", "cpu", 1, 1.1e12, 1 << 33, precision="bf16")
    assert measured / 1.5 < seconds(sizes[name], devices=amx) < measured * 1.5


def test_measured_times_replace_the_assumptions(sizes):
    """A measured update is returned as it is; another number of rows is corrected by the ratio of the nearest."""
    measured = [Measured("tiny", ROWS, 2e-3), Measured("2/128", Batch(512, 1, 128), 5e-3)]
    assert seconds(sizes["tiny"], measured=measured) == pytest.approx(2e-3)
    assert seconds(sizes["tiny"], Batch(512, 1, 128), measured=measured) == pytest.approx(5e-3)
    ratio = 2e-3 / seconds(sizes["tiny"])
    assert seconds(sizes["tiny"], Batch(32, 1, 128), measured=measured) == pytest.approx(
        ratio * seconds(sizes["tiny"], Batch(32, 1, 128)))
    assert seconds(sizes["base"], measured=measured) == seconds(sizes["base"])
    eight = step_time(sizes["tiny"], VOCAB, ROWS, 8, H200, measured=measured)
    assert eight.seconds == pytest.approx(2e-3 + eight.all_reduce)


def test_a_file_of_measured_times(tmp_path, sizes):
    path = tmp_path / "times.json"
    entry = {"size": "tiny", "batch_size": 64, "seq_length": 128, "precision": "bf16", "step_ms": 0.9,
             "device": "NVIDIA H100 80GB HBM3"}

    def read(*entries, devices=H100):
        path.write_text(json.dumps(entries))
        return read_step_times(path, devices)

    others = [{**entry, "device": "NVIDIA A100"}, {**entry, "precision": "fp32"}, {**entry, "device": "Other"}]
    assert read(entry, *others) == [Measured("tiny", ROWS, pytest.approx(9e-4))]
    with pytest.raises(UserError, match=r"times\.json: nothing was measured on H200 in bf16"):
        read(entry, *others, devices=H200)
    without = {name: value for name, value in entry.items() if name != "step_ms"}
    for broken in (without, {**without, "step_ms": 0}, {**without, "step_ms": "1"}):
        with pytest.raises(UserError, match=r"entry 2 of the list needs size, .*; wrong or missing: step_ms"):
            read(entry, broken)
    with pytest.raises(UserError, match="entry 1 of the list"):
        path.write_text("3")
        read_step_times(path, H100)
    known = Measurements(step_times=tuple(read(entry)))
    plan = make_plan([sizes["tiny"], sizes["base"]], RECIPES["uer"], VOCAB, H100, MachineConfig(), None, known)
    text = " ".join("\n".join(plan.lines()).split())
    assert "step times on one GPU are measured for L-2_H-128 (--step_times) and assumed for 1 other size;" in text
    assert "L-2_H-128 tiny 2/128 3.2 M 4.2 4.9 3.53e+17 0.4 GiB 0.99" in text  # 0.9 and the all-reduce


def test_the_tables(sizes):
    plan = make_plan([sizes["tiny"], sizes["base"]], RECIPES["uer"], VOCAB, H100, MachineConfig())
    tiny, base = (size_lines(plan, size) for size in (sizes["tiny"], sizes["base"]))
    assert [line.split()[0] for line in tiny[3:-1]] == [str(ranks) for ranks in RANKS]
    eight = tiny[6].split()
    time = step_time(sizes["tiny"], VOCAB, ROWS, 8, H100)
    assert eight[0] == "8" and eight[5] == eight[8] == f"{time.seconds * 1000:.2f}" and eight[7] == "64"
    assert len(tiny[-2].split()) == 7  # 512 rows cannot be divided by 1,024 GPUs
    assert "512 rows use 8 GPUs" in tiny[-1] and "512 rows use 32 GPUs" in base[-1]
    family = [line.split() for line in family_lines(plan)[3:]]
    assert [row[0] for row in family] == [str(ranks) for ranks in RANKS]
    efficiencies = [int(row[-2].rstrip("%")) for row in family]
    assert efficiencies[0] == 100 and efficiencies == sorted(efficiencies, reverse=True)
    assert len(scaling_lines(plan)) == len(tiny) + len(base) + len(family) + 6
    many = make_plan([sizes["tiny"]] * 5, RECIPES["uer"], VOCAB, H100, MachineConfig())
    assert len(scaling_lines(many)) == len(family) + 4  # of many sizes only the family
    assert "--scaling needs --dry_run" in FamilyConfig(corpus_path=("a",), scaling=True).problems()


def test_the_pages_show_what_is_printed(root):
    """The tables of docs/family.md and docs/scaling.md, for 8 H100, and the figures that the readers meet elsewhere."""
    def plan(names, devices=H100, **changes):
        found = resolve(names, root / "models" / "bert", partial(model_settings, flag="--sizes"))
        return make_plan(found, RECIPES["uer"], VOCAB, devices, MachineConfig(price_per_hour=3.0, **changes))

    whole, two = plan(("all",)), plan(("tiny", "base"))
    printed = {*whole.lines(), *scaling_lines(whole), *scaling_lines(two)}
    for page, blocks in (("family.md", 1), ("scaling.md", 2)):
        text = (root / "docs" / page).read_text(encoding="utf-8")
        shown = [block for block in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if "GPUs" in block]
        assert len(shown) == blocks
        assert not {line for block in shown for line in block.splitlines()} - printed, page
    pairs, a100, one = plan(("all",), gpus_per_model=2), plan(("all",), named_devices("A100", 8)), plan(
        ("all",), named_devices("H100", 1))
    for page in ("README.md", "README_ZH.md"):
        text = (root / page).read_text(encoding="utf-8")
        assert all(f"{part.hours:.1f}" in text for part in (whole, pairs)), page
    text = (root / "docs" / "family.md").read_text(encoding="utf-8")
    assert f"{hours(a100.hours)} on 8 A100 and {hours(one.hours)} on one H100" in text


def test_more_memory_bandwidth_shortens_a_step(sizes):
    assert seconds(sizes["base"], devices=H100) > seconds(sizes["base"], devices=H200)
    single = replace(H100, precision="fp32", peak_flops=495e12)
    assert seconds(sizes["base"], devices=single) > 1.5 * seconds(sizes["base"], devices=H100)
