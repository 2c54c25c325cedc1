"""The first line of a command, printed before torch is imported, which takes seconds."""

import os
import sys
import time
from pathlib import Path

# Set for every process of a run that is started from outside; the first one speaks for all.
RANK_VARIABLES = ("RANK", "SLURM_PROCID")
QUIET_WORDS = {"-h", "--help", "ERROR"}


def announce() -> None:
    """Say that the program has begun; nothing where --help or --log_level ERROR is on the command line."""
    ranks = [os.environ[name] for name in RANK_VARIABLES if name in os.environ]
    if ranks[:1] in ([], ["0"]) and QUIET_WORDS.isdisjoint(sys.argv[1:]):
        print(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {Path(sys.argv[0]).name}: loading PyTorch", flush=True)
