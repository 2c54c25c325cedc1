"""How much memory a process takes, and a setting that keeps a CPU run's memory level. Imports torch only for GPUs."""

import os
import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CACHED_KERNELS = 32


def peak_host_bytes() -> int:
    """The most bytes of memory that this process has held (its resident set)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_gib(device: "torch.device") -> float:
    """Peak memory of this process in GiB: on its GPU, else the resident set."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**30
    return peak_host_bytes() / 2**30


def limit_cached_kernels() -> None:
    """Let oneDNN keep the code it compiled for the newest shapes alone, instead of 1,024 of them.

    Rows without padding bring new shapes with every batch, which hardly ever come again. What is kept for them lies
    scattered over the heap, so that freed memory between it cannot be used for larger tensors: a run of small batches
    grew from 0.6 to 1.2 GiB. A step needs about ten. To be called before the first operation; a setting of the
    environment is left as it is.
    """
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(CACHED_KERNELS))
