"""The memory of a process, and a setting that keeps the memory of a CPU run constant. Imports torch only for GPUs."""

import os
import resource
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CACHED_KERNELS = 32
CACHED_BF16_KERNELS = 256
CAPACITY = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


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
    """Limit oneDNN's cache of compiled kernels to 32 shapes, instead of 1,024.

    Without padding nearly every batch has new shapes, which hardly ever occur again. The cached kernels fragment the
    heap, so that freed memory cannot be used for larger tensors: a run with small batches grew from 0.6 to 1.2 GiB. A
    step needs about ten kernels. Call this before the first operation; an environment variable has precedence.
    """
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:
        os.environ.setdefault(CAPACITY, str(CACHED_KERNELS))


def keep_bf16_kernels() -> None:
    """Let oneDNN cache more kernels than `limit_cached_kernels` said: in bfloat16 their shapes occur again and again
    (`uer.layers.cpu.linear`), and one of them takes as long to compile as several products. Call it likewise."""
    if os.environ.get(CAPACITY) == str(CACHED_KERNELS):
        os.environ[CAPACITY] = str(CACHED_BF16_KERNELS)
