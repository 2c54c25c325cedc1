"""`--compile`: torch.compile of a task's model, in place, so that its parameters keep their names.

The batches of fine-tuning are padded to their longest row only, so the graph is compiled for any number of rows and any
length: once for training and once for evaluation (and once more where a batch has a single row).
"""

import os
import shutil
import sys

import torch
from torch import nn

from uer.errors import UserError

# Compiling tiny's two graphs takes about 40 s, so that a gain of 2 ms an update is earned back after 20,000 updates.
# That a GPU gains so much is an assumption; see BENCHMARKS.md for what was measured.
UPDATES_TO_PAY = 20_000


def is_compiled(wanted: str, updates: int, device: torch.device) -> bool:
    """Whether a training of so many updates is compiled; on CPUs only where asked, as it is slower there."""
    return wanted == "on" or (wanted == "auto" and device.type == "cuda" and updates >= UPDATES_TO_PAY)


def compile_model(model: nn.Module, device: torch.device) -> None:
    """Compile a model's forward pass for any shape of batch.

    Raises:
        UserError: a CPU's kernels need a C++ compiler, and there is none.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(f"--compile on: the C++ compiler '{compiler}' is not there (CXX names another one)")
    model.compile(dynamic=True)
