"""Speed of a training step, compared with transformers' BertForMaskedLM: alternately in one process, medians.

    python3 scripts/benchmark_training.py --sizes tiny mini --seq_lengths 128 --fills 1.0 0.4
    python3 scripts/benchmark_training.py --sizes tiny --neighbours 1
    python3 scripts/benchmark_training.py --devices cuda --precisions bf16 --sizes base --fills 0.4 --against trainer

Our side is the trainer of pretrain.py, made by the same code from the same flags: it compiles, captures CUDA graphs,
removes padding and chooses threads as pretrain.py does on this machine, unless --compile, --cuda_graph, --unpad,
--threads or --combo_kernels say otherwise. Both sides do the whole update: batch, forward, backward, AdamW. With
`--fills 0.4`, 60% of the positions are padding on average, as in a corpus of short documents; --neighbours measures
beside busy processes. The other side:

    --against loop       a loop of ours around the model, on batches that were made beforehand
    --against trainer    transformers' Trainer with its fastest settings (needs the package accelerate)
    --against none       nothing

With --families gpt2, t5 or bart both sides train that family's language model, transformers in a loop of ours, on the
batches of its processor: documents that are half a row to a whole row long, with T5's and BART's noise.

`ratio` is that of the real tokens per second. The floor of a step is the FLOPs of all its slots, padding included,
divided by the speed of a matrix product on this device; a side that computes nothing for padding may be faster. MFU
counts the FLOPs that are executed, on devices whose peak is known. `host` is the time until the host is done with an
update. `--profile_steps` shows which operations take how much of a step on the CPU.

With `--uer_path DIR`, a checkout of the original UER-py, its commands and ours run on `--corpus_path` with the same
vocabulary, settings, batch and threads, alternately; `_original.py` says how they are timed. Prints a table, then one
JSON line for each result.
"""

import dataclasses
import itertools
import json
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

# No torch here: what `cli.run` decides about threads has to come before it.
from _neighbours import busy_processes
from _original import check_checkout, compare_commands
from _ranges import outside

from uer import cli
from uer.config import flag
from uer.errors import UserError


@dataclass(frozen=True)
class BenchmarkConfig:
    """The models, and the number of measurements."""

    families: tuple[str, ...] = flag(("bert",), "Families of models.", choices=("bert", "gpt2", "t5", "bart"))
    sizes: tuple[str, ...] = flag(("tiny", "mini"), "Names of models/bert/NAME_config.json; tiny or mini otherwise.")
    seq_lengths: tuple[int, ...] = flag((128,), "Lengths of the rows.")
    fills: tuple[float, ...] = flag((1.0,), "Mean part of a row that is not padding, such as 0.4.")
    batch_size: int = flag(64, "Rows of a batch.")
    devices: tuple[str, ...] = flag(("cpu",), "Where to compute.", choices=("cpu", "cuda"))
    precisions: tuple[str, ...] = flag(("fp32",), "Precision.", choices=("fp32", "bf16", "fp16"))
    against: str = flag("loop", "What transformers runs: a loop of ours, or its own Trainer.",
                        choices=("loop", "trainer", "none"))
    compile: str = flag("auto", "As pretrain.py; transformers is compiled where ours is.",
                        choices=("auto", "on", "off"))
    cuda_graph: str = flag("auto", "As pretrain.py.", choices=("auto", "on", "off"))
    unpad: str = flag("auto", "As pretrain.py.", choices=("auto", "on", "off"))
    combo_kernels: str = flag("off", "As pretrain.py.", choices=("on", "off"))
    threads: int | None = flag(None, "As pretrain.py, of our side.")
    neighbours: int = flag(0, "Busy processes of one thread that run meanwhile.")
    rounds: int = flag(5, "Number of measurements of each side.")
    seconds: float = flag(2.0, "Approximate seconds of one measurement.")
    profile_steps: int = flag(0, "Number of updates to profile on the CPU afterwards; 0: none.")
    uer_path: str | None = flag(None, "A checkout of the original UER-py, for a comparison of commands.", path="read")
    corpus_path: str | None = flag(None, "Corpus for --uer_path.", path="read")
    vocab_path: str = flag("models/google_zh_vocab.txt", "Vocabulary for --uer_path.", path="read")
    command_steps: int = flag(36, "Updates of each command of --uer_path; the first sixth is not timed.")

    def problems(self) -> list[str]:
        found = outside(self, seq_lengths=(4, 1 << 16), batch_size=(1, 1 << 16), rounds=(1, 1000),
                        seconds=(0.001, 3600), profile_steps=(0, 10_000), command_steps=(1, 10**6),
                        neighbours=(0, 1024), threads=(0, 4096))
        if not all(0.0 < fill <= 1.0 for fill in self.fills):
            found.append("--fills must lie between 0 and 1, and not be 0")
        if set(self.families) != {"bert"}:
            from _gpu_families import SIZES

            if unknown := sorted(set(self.sizes) - set(SIZES)):
                found.append(f"--sizes {' '.join(unknown)}: only bert has it; others have {' and '.join(SIZES)}")
            if self.against == "trainer":
                found.append("--against trainer: for bert only")
        return found


def main() -> None:
    """Time every combination."""
    config, = cli.parse(__doc__, (BenchmarkConfig,))
    if config.uer_path:
        check_checkout(config)

    import torch
    from _random_run import read_model_config
    from _sides import Case, compare, possible, print_row

    from uer.training.run_summary import device_name

    for size, length in itertools.product(config.sizes, config.seq_lengths):
        if length > read_model_config(size).max_seq_length:
            raise UserError(f"--seq_lengths {length}: {size} has {read_model_config(size).max_seq_length} positions")
    config = dataclasses.replace(config, against=possible(config.against))
    print(f"{device_name(torch.device('cpu'))} on {platform.processor() or platform.machine()}, Python "
          f"{platform.python_version()}, torch {torch.__version__}; against {config.against}; batches of "
          f"{config.batch_size}, {config.neighbours} neighbours, {config.rounds} rounds, medians\n")
    records = []
    for case in (Case(*values, family) for family in config.families for values in itertools.product(
            config.sizes, config.seq_lengths, config.fills if family == "bert" else (None,), config.devices,
            config.precisions)):
        records.append(compare(case, config))
        print_row(records[-1], header=len(records) == 1)
    if config.uer_path:
        with busy_processes(config.neighbours):
            records += [compare_commands(size, config) for size in config.sizes]
    print()
    for record in records:
        print(json.dumps(record))


if __name__ == "__main__":
    cli.run(main)
