"""The plan of a run: its memory against what torch's memory tracker sees of a real update, and a model of 7 billion."""

import contextlib
import dataclasses

import pytest
import torch
import torch.distributed as dist

from uer.config import ModelConfig, OptimConfig, ParallelConfig, TrainConfig
from uer.errors import UserError
from uer.family.devices import named_devices
from uer.family.scaling import all_reduce_seconds
from uer.layers import attention, cross_entropy, dropout, view
from uer.meta_device import Unfilled
from uer.model import build_model
from uer.optim import build_optimizer
from uer.planning.flops import example_batch, parameter_count
from uer.planning.memory import Exchange, Traffic, largest_batch, memory_of, traffic_of
from uer.planning.plan import Communication, assumed_rows, exchange_seconds, plan_lines
from uer.runtime.parallel import World
from uer.tensor_parallel import split_model
from uer.training.update import StepModule

SPECIAL = {role: number for number, role in enumerate(("pad", "unk", "cls", "sep", "mask"))}
SMALL = ModelConfig(emb_size=64, hidden_size=64, feedforward_size=176, heads_num=4, layers_num=4, dropout=0.0,
                    max_seq_length=64, mask="causal", layernorm_positioning="pre", feed_forward="gated",
                    embedding=("word", "pos"), target=("lm",))
LLAMA_7B = dataclasses.replace(
    SMALL, emb_size=4096, hidden_size=4096, feedforward_size=11008, heads_num=32, layers_num=32, max_seq_length=2048,
    hidden_act="silu", layernorm="t5", remove_transformer_bias=True, remove_embedding_layernorm=True,
    embedding=("word",))
VOCAB = 800


def rows_of(config, vocab=VOCAB):
    return assumed_rows(config, None, vocab, SPECIAL)


def measured_peak(config, rows, mode, dtype):
    """Bytes at the peak of a real update on the CPU, without the kernels that only CPUs have."""
    from torch.distributed._tools.mem_tracker import MemTracker

    model = build_model(config, VOCAB, activation_checkpointing=mode)
    optimizer, tracker = build_optimizer(OptimConfig(learning_rate=1e-3), model), MemTracker()
    tracker.track_external(model, optimizer)
    batch = example_batch(rows_of(config).processor, rows)
    batch.src.seg.fill_(1)
    batch.labels["lm"].values.fill_(5)
    for step in range(2):  # in the first, the optimizer makes its moments
        with tracker if step else contextlib.nullcontext():
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is not None):
                loss = model(batch).loss
            loss.backward()
            optimizer.step()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


@pytest.mark.parametrize("mode, dtype, above", [("off", None, 1.05), ("off", torch.bfloat16, 1.15),
                                                ("selective", None, 1.15), ("full", None, 1.2)])
def test_the_plan_is_a_little_above_the_peak_of_a_real_update(monkeypatch, mode, dtype, above):
    for module in (attention, cross_entropy, dropout, view):
        for name in ("usable", "eager_cpu"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda tensor: False)
    parallel = ParallelConfig(activation_checkpointing=mode)
    planned = memory_of(SMALL, VOCAB, rows_of(SMALL).processor, 16, parallel, dtype)
    assert 1 < planned.total / measured_peak(SMALL, 16, mode, dtype) < above


def test_parts_of_a_mesh():
    """Each of 2 x 2 ranks has a quarter of what is divided, and gathers two blocks and the rest of its half."""
    rows = rows_of(SMALL)
    alone, two, four = (memory_of(SMALL, VOCAB, rows.processor, 4, parallel, None) for parallel in (
        ParallelConfig(), ParallelConfig(world_size=2, tensor_parallel_size=2),
        ParallelConfig(world_size=4, tensor_parallel_size=2, sharding="fsdp")))
    parameters = parameter_count(SMALL, VOCAB)
    assert alone.weights == alone.gradients == alone.moments / 2 == 4 * parameters
    assert 0.5 < two.gradients / alone.gradients < 0.53 and two.logits < 0.6 * alone.logits
    assert four.gradients == pytest.approx(two.gradients / 2, abs=8)
    assert four.gradients < four.weights
    assert alone.activations > two.activations == four.activations


def test_what_is_offloaded_is_in_the_memory_of_the_host():
    """A rank's part of weights, gradients and moments; on the device is what it gathers, and a block's gradients."""
    there, off = (memory_of(SMALL, VOCAB, rows_of(SMALL).processor, 4, parallel, None) for parallel in (
        ParallelConfig(world_size=2, sharding="fsdp", cpu_offload=offload) for offload in (False, True)))
    part = -(-parameter_count(SMALL, VOCAB) // 2)
    assert off.host == 16 * part and off.moments == there.host == 0
    assert off.weights == there.weights - 4 * part and off.gradients < there.gradients
    assert (off.activations, off.logits) == (there.activations, there.logits)
    train = TrainConfig(output_model_path="m", dry_run=True, batch_size=2)
    lines = plan_lines(SMALL, train, ParallelConfig(world_size=2, sharding="fsdp", cpu_offload=True), rows_of(SMALL))
    assert any(line.startswith("memory of the host for each device (--cpu_offload): ") for line in lines)


def test_the_largest_batch_fills_the_memory():
    def memory(rows):
        return memory_of(SMALL, VOCAB, rows_of(SMALL).processor, rows, ParallelConfig(), torch.bfloat16)

    most = largest_batch(memory, 2**30)
    assert memory(most).total <= 2**30 < memory(most + 1).total
    assert largest_batch(memory, memory(1).total - 1) == 0


def test_a_plan_for_7_billion():
    parallel = ParallelConfig(world_size=16, tensor_parallel_size=8, sharding="fsdp",
                              activation_checkpointing="full")
    train = TrainConfig(output_model_path="m", dry_run=True, device_name="H100", batch_size=2,
                        total_steps=100_000)
    first, *lines = plan_lines(LLAMA_7B, train, parallel, rows_of(LLAMA_7B, 32000))
    assert first.startswith("plan: 6,738,415,616 parameters on 16 x H100: 2 batches at a time, each on 8; sharding")
    table = {line.split()[0]: float(line.split()[-2]) for line in lines if line.endswith(" GiB")}
    assert table["gradients"] == pytest.approx(4 * 6.74e9 / 16 / 2**30, rel=0.02)
    states = 2 * 2048 * 4096 * 4 / 2**30  # the input of each layer is kept: an eighth of it, but of the last one all
    assert 31 / 8 + 1 < table["activations"] / states < 31 / 8 + 4
    # 6 FLOP for each parameter but the embedding, and attention's products.
    flops = 6 * (6_738_415_616 - 32000 * 4096) + 12 * 32 * 4096 * 2048
    assert f"{flops / 1e9:.3g} GFLOP a token" in lines[-3]
    assert " h at 40% of 16 x 989 TFLOP/s (--mfu, assumed)" in lines[-1]
    # Half of 842 million gradients go to the other node, at 40 GB/s, and as many weights in bf16, twice.
    assert "gradients 1.69 GB in 0.042" in lines[-2] and "weights 1.69 GB in 0.042" in lines[-2]


@pytest.mark.parametrize("mode, inside, number", [("off", 38, 44), ("full", 54, 60)])
def test_what_ranks_exchange_counted_by_hand(mode, inside, number):
    """SMALL in fp32 with 4 rows of 64 tokens, of which each is (H = 64) numbers: `one` tensor of all tokens.

    A layer with divided tokens gathers and scatters it for attention and for the feed-forward part, 4 forward and 4
    backward, and there are 3; the last layer has 4 sums, 8. Dividing the tokens and joining them 1 each, the sum of the
    embedding and that of the output layer's gradient 2 each: 24 + 8 + 1 + 1 + 2 + 2 = 38. In the cross-entropy 3 sums
    of a number for each token. Computed again, the layers of the first kind have 4 more, the last one 4.
    """
    one, row = 4 * 64 * 64 * 4, 4 * 64 * 4
    parallel = ParallelConfig(world_size=4, tensor_parallel_size=2, sharding="fsdp", activation_checkpointing=mode)
    found = traffic_of(SMALL, VOCAB, rows_of(SMALL).processor, 4, parallel, None)
    assert found.activations == Exchange(inside * one + 6 * row, number)
    half = sum(p.numel() for p in build_model(SMALL, VOCAB).parameters())
    assert found.gradients.size / 4 == pytest.approx(half / 2, rel=0.02) and found.gradients.number == 5
    outside = 800 * 64 * 2 / 2 + 64 * 64 + 64 * 2 * 2  # the parts of the vocabulary, positions, norms
    assert found.weights.size / 4 == pytest.approx(2 * found.gradients.size / 4 - outside, rel=0.01)
    alone = traffic_of(SMALL, VOCAB, rows_of(SMALL).processor, 4, ParallelConfig(world_size=4), None)
    assert alone == Traffic(Exchange(8 * half, 2), Exchange(0, 0), Exchange(0, 0))


def test_seconds_of_exchanges_by_hand():
    h100 = named_devices("H100", 16)  # 360 GB/s in a node of 8, 40 GB/s to others
    summed = Exchange(2 * 10**9, 2)  # an all-reduce of 1 GB
    for ranks in (8, 16):
        assert exchange_seconds(summed, ranks, 1, h100) == pytest.approx(all_reduce_seconds(1e9, ranks, h100))
    # Each second rank of 2 nodes: 4 of a node add up 1 GB in a ring, and each sends a quarter to the other node.
    inside, between = 2 * 3 / 4 * 1e9 / 360e9 + 6 * 2e-6, 2 / 2 * 0.25e9 / 40e9 + 2 * 5e-6
    assert exchange_seconds(summed, 8, 2, h100) == pytest.approx(inside + between)
    # One rank of each node: nothing within a node, and all of it to the other.
    assert exchange_seconds(summed, 2, 8, h100) == pytest.approx(1e9 / 40e9 + 2 * 5e-6)
    assert exchange_seconds(Exchange(10**9, 1), 2, 8, h100) == pytest.approx((1e9 / 40e9 + 2 * 5e-6) / 2)
    assert exchange_seconds(summed, 1, 8, h100) == 0 and summed.sent(4) == 1.5e9


def test_gradients_are_hidden_behind_what_is_computed():
    found = Communication({}, {"gradients": 2.0, "weights": 1.0, "activations": 0.5})
    assert found.exposed(10.0) == 0.5 and found.exposed(2.5) == 1.0


def test_a_teacher_is_planned_for():
    """Its forward pass costs a third of what training it costs; its weights and logits have their own line."""
    train, rows = TrainConfig(output_model_path="m", dry_run=True, batch_size=10), rows_of(SMALL)
    alone, taught = (plan_lines(SMALL, train, ParallelConfig(), rows, teacher) for teacher in (None, SMALL))
    flops = [float(lines[-1].split()[1]) for lines in (alone, taught)]
    assert flops[1] / flops[0] == pytest.approx(4 / 3, rel=0.02)
    assert len(taught) == len(alone) + 1 and any(line.startswith("    teacher ") for line in taught)


def test_the_plan_of_a_small_model_says_that_it_reaches_less():
    """A billion parameters and more reach the part of the peak that is assumed; LLaMA's are above."""
    train = TrainConfig(output_model_path="m", dry_run=True, device_name="H100")
    lines = plan_lines(SMALL, train, ParallelConfig(), rows_of(SMALL))
    assert "(--mfu, assumed; a small model reaches less)" in lines[-1]


def test_plans_that_cannot_be():
    train = TrainConfig(output_model_path="m", dry_run=True, device_name="H101")
    with pytest.raises(UserError, match="--device_name: 'H101' is unknown"):
        plan_lines(SMALL, train, ParallelConfig(), rows_of(SMALL))
    with pytest.raises(UserError, match="does not divide --world_size 3"):
        plan_lines(SMALL, train, ParallelConfig(world_size=3, tensor_parallel_size=2), rows_of(SMALL))
    with pytest.raises(UserError, match="no dataset says how batches of --target sp are made"):
        rows_of(dataclasses.replace(SMALL, target=("sp",)))
    with pytest.raises(UserError, match="--data_processor mlm has labels for mlm, none for sp"):
        assumed_rows(dataclasses.replace(SMALL, target=("mlm", "sp")), "mlm", VOCAB, SPECIAL)


def test_7_billion_parameters_are_built_and_divided_without_memory():
    """On the meta device, as rank 3 of 2 x 8."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    parallel = ParallelConfig(world_size=16, tensor_parallel_size=8, sharding="fsdp")
    dist.init_process_group("fake", store=FakeStore(), rank=3, world_size=16)
    try:
        world = World(3, 16, torch.device("cpu"), parallel)
        with Unfilled():
            model = build_model(LLAMA_7B, 32000, unpad="off")
        split_model(model, world.model_ranks)
        world.wrap(StepModule(model), dtype=torch.bfloat16)
        local = sum(parameter.to_local().numel() for parameter in model.parameters())
        assert local == pytest.approx(6_738_415_616 / 16, rel=0.001)
        weight = model.encoder.transformer[31].feed_forward.linear_2.weight
        described = world.described(weight.detach(), world.splits[weight])
        assert described.shape == (4096, 11008) and described.to_local().shape == (2048, 1376)
    finally:
        dist.destroy_process_group()
