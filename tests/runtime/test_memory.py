"""What keeps the memory of a CPU run level while every batch brings new shapes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# One import of torch for both cases: oneDNN reads the environment when it computes for the first time.
PROGRAM = """
import os
import torch
from torch.nn import functional as F
from uer.config import ParallelConfig
from uer.runtime.launch import RankInfo
from uer.runtime.memory import CACHED_KERNELS
from uer.runtime.parallel import connect

for capacity in (None, "1024"):
    print("capacity", capacity, flush=True)
    child = os.fork()
    if child == 0:
        if capacity:
            os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = capacity
        connect(RankInfo(), ParallelConfig(device="cpu"))
        for columns in [7, 7, *range(100, 101 + CACHED_KERNELS), 7]:
            F.gelu(torch.ones(3, columns))
        break
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_kernels_of_old_shapes_are_forgotten_unless_the_environment_says_otherwise():
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "ONEDNN_VERBOSE": "profile_create"}
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"):
        env.pop(name, None)
    output = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, env=env, capture_output=True, text=True,
                            check=True).stdout
    by_us, by_the_environment = (cache_hits(part) for part in output.split("capacity ")[1:])
    if not by_us and not by_the_environment:
        pytest.skip("this torch computes gelu without oneDNN")
    assert (by_us, by_the_environment) == ([False, True, False], [False, True, True])


def cache_hits(output: str) -> list[bool]:
    """Whether the kernel was there already, for each time that the first shape was computed."""
    return ["cache_hit" in line for line in output.splitlines() if ",eltwise," in line and ",3x7," in line]
