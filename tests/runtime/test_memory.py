"""What keeps the memory of a CPU run level while every batch brings new shapes."""

import pytest
import torch

# The first shape comes twice, then as many others as the cache holds, then the first again.
PROGRAM = """
import torch
from torch.nn import functional as F
from uer.config import ParallelConfig
from uer.runtime.launch import RankInfo
from uer.runtime.memory import CACHED_KERNELS
from uer.runtime.parallel import connect

connect(RankInfo(), ParallelConfig(device="cpu"))
for columns in [7, 7, *range(100, 101 + CACHED_KERNELS), 7]:
    F.gelu(torch.ones(3, columns))
"""
# oneDNN reads these when it computes for the first time, which it has not done in the fork server.
VARIABLES = {"ONEDNN_VERBOSE": "profile_create", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": None,
             "DNNL_PRIMITIVE_CACHE_CAPACITY": None}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_kernels_of_old_shapes_are_forgotten_unless_the_environment_says_otherwise(server, tmp_path):
    hits = []
    for number, capacity in enumerate((None, "1024")):
        log = tmp_path / f"log{number}"
        pid = server.ask({"program": PROGRAM, "log": str(log),
                          "env": {**VARIABLES, "ONEDNN_PRIMITIVE_CACHE_CAPACITY": capacity}})
        assert server.ask({"wait": pid, "seconds": 240}) == 0, log.read_text()
        hits.append(cache_hits(log.read_text()))
    if not any(hits):
        pytest.skip("this torch computes gelu without oneDNN")
    assert hits == [[False, True, False], [False, True, True]]


def cache_hits(output: str) -> list[bool]:
    """Whether the kernel was there already, for each time that the first shape was computed."""
    return ["cache_hit" in line for line in output.splitlines() if ",eltwise," in line and ",3x7," in line]
