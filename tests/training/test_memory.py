"""What keeps the memory of a CPU run level while every batch brings new shapes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PROGRAM = """
import torch
from torch.nn import functional as F
from uer.config import ParallelConfig
from uer.training.launch import Place
from uer.training.parallel import CACHED_KERNELS, connect

connect(Place(), ParallelConfig(device="cpu"))
for columns in [7, 7, *range(100, 101 + CACHED_KERNELS), 7]:
    F.gelu(torch.ones(3, columns))
"""


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
@pytest.mark.parametrize("capacity", [None, "1024"])
def test_kernels_of_old_shapes_are_forgotten_unless_the_environment_says_otherwise(capacity):
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": str(root), "ONEDNN_VERBOSE": "profile_create"}
    env.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)
    if capacity:
        env["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = capacity
    output = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, env=env, capture_output=True, text=True,
                            check=True).stdout
    lines = [line for line in output.splitlines() if ",eltwise," in line and ",3x7," in line]
    if not lines:
        pytest.skip("this torch computes gelu without oneDNN")
    assert ["cache_hit" in line for line in lines] == [False, True, capacity is not None]
