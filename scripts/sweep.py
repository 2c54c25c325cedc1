"""Run pretrain.py with many settings, one process a core, and rank them by their held-out loss.

    python3 scripts/sweep.py --sweep_path sweep.json --output_dir sweep --processes 2

The JSON file lists the runs. Every entry is a flag of pretrain.py; a list gives several values. Each run is made with
each seed:

    {"common": {"dataset_path": "train.pt", "dev_dataset_path": "dev.pt", "vocab_path": "models/google_zh_vocab.txt",
                "config_path": "models/bert/tiny_config.json", "total_steps": 1000, "batch_size": 32,
                "learning_rate": 1e-3, "target": "mlm", "precision": "fp32", "eval_masking": "tokens",
                "eval_steps": 100},
     "seeds": [7, 8],
     "runs": {"base": {}, "3e-3": {"learning_rate": 3e-3}, "muon": {"optimizer": "muon", "learning_rate": 3e-3}}}

On a GPU the runs share it by CUDA MPS, where that is installed: small models leave most of one unused.

Every run has one thread, so its result depends on its settings alone and not on what runs beside it, if "precision" is
given ("auto" measures the CPU, which other runs disturb). It is in OUTPUT_DIR/NAME-seedN: metrics.jsonl, log.txt, the
weights, and command.json. Started again, the command leaves out what is finished and goes on with what was interrupted.
The table ranks the runs; the first one is what the others are compared with.
"""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _ranges import outside
from _runs import compared, read_curve, table

from pretrain import SECTIONS
from uer import cli, model_settings
from uer.config import REQUIRED, TrainConfig, flag
from uer.errors import UserError
from uer.family.mps import Mps, available
from uer.files import atomic_path
from uer.json_files import json_text, read_json_object
from uer.runtime.processes import death_signal

ROOT = Path(__file__).resolve().parent.parent
OWN = ("output_model_path", "metrics_path", "seed", "threads", "log_path", "dry_run")
DEFAULTS = {"report_steps": 50}
COMMAND, METRICS, LOG, DONE = "command.json", "metrics.jsonl", "log.txt", "done"


@dataclass(frozen=True)
class SweepConfig:
    """The runs, and how many at once."""

    sweep_path: str = flag(REQUIRED, "The JSON file with the runs.", path="read")
    output_dir: str = flag(REQUIRED, "Folder of the results.", path="write_folder")
    processes: int = flag(0, "Runs at once; 0: as many as there are cores.")
    only: tuple[str, ...] = flag((), "Names of the runs to make; the table has all that are finished.")
    keep_weights: bool = flag(False, "Keep the weights; otherwise the metrics alone stay.")

    def problems(self) -> list[str]:
        return outside(self, processes=(0, 4096))


@dataclass(frozen=True)
class Trial:
    """One run with one seed."""

    name: str
    seed: int
    folder: Path
    flags: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return (self.folder / DONE).is_file()

    def command(self) -> list[str]:
        """pretrain.py with its flags."""
        return [sys.executable, str(ROOT / "pretrain.py"), "--output_model_path", str(self.folder / "model.bin"),
                "--metrics_path", str(self.folder / METRICS), "--seed", str(self.seed), "--threads", "1",
                *cli.words_of(self.flags, SECTIONS)]


def main() -> None:
    """Make the runs that are not finished, then print the table."""
    config, = cli.parse(__doc__, (SweepConfig,))
    trials = read_sweep(config)
    missing = [trial for trial in trials if not trial.finished and (not config.only or trial.name in config.only)]
    for trial in missing:
        _check_flags(trial, config.sweep_path)
    print(f"{len(trials)} runs, {len(missing)} to make", flush=True)
    failed = run_all(missing, config.processes or len(os.sched_getaffinity(0)), config.keep_weights,
                     Path(config.output_dir))
    print_table(trials)
    if failed:
        raise UserError(f"{len(failed)} runs failed: {', '.join(failed)} ({LOG} in their folders says why)")


def read_sweep(config: SweepConfig) -> list[Trial]:
    """The runs of the JSON file, checked against what an earlier start wrote.

    Raises:
        UserError: the file has other keys, or a run's settings differ from those it was begun with.
    """
    runs, seeds, common = _read_file(config.sweep_path)
    folders: dict[str, str] = {}
    trials = []
    for name, changes in runs.items():
        flags = {**DEFAULTS, **common, **changes}
        taken = sorted(set(flags) & set(OWN))
        if taken:
            raise UserError(f"{config.sweep_path}: {name}: --{taken[0]} is set by this command")
        steps = flags.get("total_steps", TrainConfig.total_steps)
        flags.setdefault("save_checkpoint_steps", steps)
        if isinstance(steps, int) and isinstance(flags["report_steps"], int):
            flags["report_steps"] = min(flags["report_steps"], steps)  # the table needs one report at least
        short = re.sub(r"[^\w.+-]+", "_", name)
        if folders.setdefault(short, name) != name:
            raise UserError(f"{config.sweep_path}: {name} and {folders[short]} have the same folder, {short}")
        trials += [Trial(name, seed, Path(config.output_dir) / f"{short}-seed{seed}", flags) for seed in seeds]
    unknown = sorted(set(config.only) - set(runs))
    if unknown:
        raise UserError(f"--only {unknown[0]}: {config.sweep_path} has no such run")
    for trial in trials:
        _check_settings(trial)
    return trials


def _read_file(path: str) -> tuple[dict[str, Any], list[int], dict[str, Any]]:
    """The file's `runs`, `seeds` and `common`."""
    content = read_json_object(path)
    runs, seeds, common = content.get("runs"), content.get("seeds", [7]), content.get("common", {})
    if set(content) - {"common", "seeds", "runs"} or not isinstance(runs, dict) or not runs:
        raise UserError(f"{path}: needs the keys \"common\", \"seeds\" and \"runs\", and no others")
    for name, flags in {"\"common\"": common, **runs}.items():
        if not isinstance(flags, dict):
            raise UserError(f"{path}: {name}: must be an object of flags, not {json_text(flags)}")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{path}: \"seeds\": must be a list of whole numbers, not {json_text(seeds)}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{path}: \"seeds\": names a seed twice")
    return runs, seeds, common


def _check_flags(trial: Trial, path: str) -> None:
    """Refuse before anything runs what pretrain.py would refuse, and runs without held-out losses."""
    try:
        train = model_settings.parse("", SECTIONS, trial.command()[2:])[0]
    except UserError as error:
        raise UserError(f"{path}: {trial.name}: {error}") from None
    if not train.dev_dataset_path and not train.dev_fraction:
        raise UserError(f"{path}: {trial.name}: --dev_dataset_path or --dev_fraction is needed: the table ranks the "
                        "runs by their held-out loss")


def _check_settings(trial: Trial) -> None:
    path = trial.folder / COMMAND
    if not path.is_file():
        return
    before, now = read_json_object(path), json.loads(json_text(trial.flags))
    for name in sorted(set(before) | set(now)):
        if before.get(name) != now.get(name):
            raise UserError(f"{trial.folder}: was begun with --{name} {before.get(name)}, the sweep now says "
                            f"{now.get(name)}: give the run another name, or remove the folder")


def run_all(trials: list[Trial], processes: int, keep_weights: bool, output_dir: Path) -> list[str]:
    """Make the runs, `processes` at once; returns the folders' names of those that failed."""
    waiting, running, failed = list(trials), {}, []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with Mps.start(output_dir / "mps", print) if processes > 1 and available() else Mps() as mps:
        environment |= mps.environment
        try:
            while waiting or running:
                while waiting and len(running) < processes:
                    trial = waiting.pop(0)
                    running[_start(trial, environment, mps.pass_fds)] = (trial, time.monotonic())
                time.sleep(0.2)
                for process in [each for each in running if each.poll() is not None]:
                    trial, begun = running.pop(process)
                    if process.returncode:
                        failed.append(trial.folder.name)
                    else:
                        _finish(trial, keep_weights)
                    words = "failed" if process.returncode else f"held-out loss {_last_loss(trial):.4f}"
                    print(f"{trial.name}, seed {trial.seed}: {words}, {time.monotonic() - begun:.0f} s", flush=True)
        finally:
            for process in running:
                process.send_signal(signal.SIGTERM)  # pretrain.py saves its state
            for process in running:
                process.wait()
    return failed


def _start(trial: Trial, environment: dict[str, str], pass_fds: tuple[int, ...]) -> subprocess.Popen:
    trial.folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(trial.folder / COMMAND) as temporary:
        temporary.write_text(json_text(trial.flags, indent=2) + "\n", encoding="utf-8")
    with open(trial.folder / LOG, "a", encoding="utf-8") as log:
        return subprocess.Popen(trial.command(), stdout=log, stderr=log, env=environment, cwd=os.getcwd(),
                                pass_fds=pass_fds, preexec_fn=death_signal(signal.SIGTERM))


def _finish(trial: Trial, keep_weights: bool) -> None:
    """Remove what is not needed any more, and mark the run as finished."""
    for path in trial.folder.glob("model.bin*"):
        if ".state-" in path.name or not keep_weights:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (trial.folder / DONE).touch()


def _last_loss(trial: Trial) -> float:
    return read_curve(str(trial.folder / METRICS)).losses[-1]


def print_table(trials: list[Trial]) -> None:
    """The runs whose seeds are all finished: the first one, then the others from the lowest loss on; diverged ones are
    the last."""
    names = list(dict.fromkeys(trial.name for trial in trials))
    groups = {name: [read_curve(str(trial.folder / METRICS)) for trial in trials if trial.name == name]
              for name in names if all(trial.finished for trial in trials if trial.name == name)}
    if not groups:
        return
    first, *others = compared(groups)
    losses = [sum(row["losses"]) for row in others]
    order = sorted(range(len(others)), key=lambda number: (math.isnan(losses[number]), losses[number]))
    print("\n".join(["", *table([first, *(others[number] for number in order)])]))


if __name__ == "__main__":
    cli.run(main)
