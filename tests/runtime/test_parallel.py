"""What is sent between ranks, seen by a rank that is alone in its process group."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from uer.config import ParallelConfig
from uer.runtime.parallel import World


@pytest.fixture
def world():
    """A world of two ranks whose process group has one: what is averaged stays as it was sent."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield World(0, 2, torch.device("cpu"), ParallelConfig())
    dist.destroy_process_group()


@pytest.mark.parametrize("accumulating", [False, True])
@pytest.mark.parametrize("compression", ["none", "bf16"])
def test_gradients_are_rounded_where_they_are_compressed(world, compression, accumulating):
    world = replace(world, config=ParallelConfig(gradient_compression=compression))
    torch.manual_seed(1)
    alone, module = (nn.Linear(13, 7) for _ in range(2))
    module.load_state_dict(alone.state_dict())
    rows = torch.randn(5, 13)
    wrapped = world.wrap(module, accumulating=accumulating)
    for last in ((False, True) if accumulating else (True,)):
        alone(rows).square().sum().backward()
        with world.synchronise(wrapped, now=last):
            wrapped(rows).square().sum().backward()
    for found, exact in zip(module.parameters(), alone.parameters()):
        rounded = exact.grad.bfloat16().float()
        assert not torch.equal(rounded, exact.grad)
        torch.testing.assert_close(found.grad, rounded if compression == "bf16" else exact.grad, rtol=0, atol=1e-6)


class Stack(nn.Module):
    """An outer layer and two blocks; remembers the types that its layers see."""

    def __init__(self):
        super().__init__()
        self.outer = nn.Linear(13, 13)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(13, 13), nn.Tanh()) for _ in range(2))
        self.seen = {}

    def forward(self, rows, count):
        self.seen = {"outer": self.outer.weight.dtype, "rows": rows.dtype, "count": count.dtype}
        rows = self.outer(rows)
        for block in self.blocks:
            rows = block(rows)
        return rows.float().square().sum() / count


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_blocks_are_gathered_in_the_type_of_autocast(world, dtype):
    world = replace(world, world_size=1, config=ParallelConfig(sharding="fsdp"))
    module = Stack()
    gathered = []
    for block in module.blocks:
        block[0].register_forward_pre_hook(lambda layer, inputs: gathered.append(layer.weight.dtype))
    wrapped = world.wrap(module, dtype=dtype)
    with torch.autocast("cpu", dtype=dtype) if dtype else torch.autocast("cpu", enabled=False):
        loss = wrapped(torch.randn(5, 13), torch.tensor(8191.0))
    loss.backward()
    assert gathered == 2 * [dtype or torch.float32]
    assert module.seen == dict.fromkeys(("outer", "rows", "count"), torch.float32)
    assert all(p.dtype == p.grad.dtype == torch.float32 and p.grad.full_tensor().any() for p in module.parameters())
