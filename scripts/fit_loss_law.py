"""Fit a power law of the held-out loss to finished pretraining runs, for pretrain.py --dry_run --loss_law.

    python3 scripts/fit_loss_law.py --runs models/modernbert/L-2_H-128_config.json=a.jsonl,b.jsonl \\
        models/modernbert/L-4_H-256_config.json=c.jsonl,d.jsonl,e.jsonl,f.jsonl,g.jsonl \\
        --vocab_path models/google_zh_vocab.txt --about "reviews, AdamW 1e-3" --output_path law.json --plot_path law.png

Each run is a model's settings and the --metrics_path files of trainings with it, each of which has ended, its learning
rate too, with an evaluation at its end. Seven runs of two sizes and three numbers of tokens are the least.
The held-out losses must be of the same rows and masks.

With --scheduler constant_with_warmup and --decay_from, one training serves for several numbers of tokens. Printed are
the law, and for each run what the other runs predict for it: that tells how far the law can be trusted.
"""

import itertools
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from plot_training import FORMATS, picture_format, read_metrics, require_matplotlib

from uer import cli
from uer.config import REQUIRED, TokenizerConfig, flag
from uer.errors import UserError
from uer.files import atomic_path
from uer.json_files import json_text
from uer.model_config import ModelConfig
from uer.model_settings import model_settings
from uer.paths import File
from uer.planning.loss_law import LossLaw, Run, fit_law, kind_of, layer_parameters
from uer.text import count
from uer.tokenizers import build_tokenizer

END = 0.99
"""An evaluation after this part of the updates is one of the end: the learning rate is almost 0."""


@dataclass(frozen=True)
class FitLossLawConfig:
    """The runs, and the output files."""

    runs: tuple[str, ...] = flag(REQUIRED, "CONFIG=FILE,FILE,...: a model's settings, the runs' --metrics_path files.")
    about: str = flag(REQUIRED, "Text, masks and recipe of the runs in a few words, which --dry_run shows.")
    output_path: str = flag(REQUIRED, "The law.", path="write")
    plot_path: str | None = flag(None, "A picture of the runs and the law (default: none).", path="write")

    def problems(self) -> list[str]:
        found = [f"--runs {run}: must be CONFIG=FILE,FILE,..." for run in self.runs
                 if not all(run.partition("=")) or not all(run.partition("=")[2].split(","))]
        if self.plot_path and picture_format(self.plot_path) not in FORMATS:
            found.append(f"--plot_path {self.plot_path}: the name must end in .{', .'.join(FORMATS)}")
        return found

    def reads(self) -> list[File]:
        """The settings and metrics files."""
        return [File("--runs", path) for run in self.runs for path in run.replace("=", ",").split(",")]


def main() -> None:
    """Read, fit, print, write."""
    config, tokenizer = cli.parse(__doc__, (FitLossLawConfig, TokenizerConfig))
    if config.plot_path:
        require_matplotlib()
    vocab_size = len(build_tokenizer(tokenizer).vocab)
    models, runs = {}, []
    for path, _, files in (run.partition("=") for run in config.runs):
        models[path] = model_settings(path, "--runs")
        runs += [read_run(file, models[path], vocab_size) for file in files.split(",")]
    law = fit_law(sorted(runs), config.about, common_kind(models), vocab_size)
    print("\n".join(table(law)))
    with atomic_path(config.output_path) as temporary:
        temporary.write_text(json_text(law.json(), indent=1) + "\n", encoding="utf-8")
    print(f"\n{config.output_path}")
    if config.plot_path:
        draw(law, config.plot_path)
        print(config.plot_path)


def read_run(path: str, model: ModelConfig, vocab_size: int) -> Run:
    """The last held-out loss of a metrics file. The tokens are those of the median update times the updates, so that a
    decay counts the updates before it, and a run that was killed and continued those of its first start.

    Raises:
        UserError: the run has not ended, or its last update was not evaluated.
    """
    records = read_metrics(path, flag="--runs")
    trained = [record for record in records if record["kind"] == "train" and "interval_real_tokens" in record]
    losses = [record for record in records if record["kind"] == "eval" and "loss" in record]
    if not trained or not losses or losses[-1]["step"] < END * losses[-1]["total_steps"]:
        raise UserError(f"{path}: no held-out loss at the end (--dev_dataset_path; has the run finished?)")
    updates = [record["interval_real_tokens"] / (record["step"] - before["step"])
               for before, record in itertools.pairwise(trained)]
    if not updates:
        raise UserError(f"{path}: needs two reports at least (--report_steps)")
    return Run(layer_parameters(model, vocab_size), statistics.median(updates) * losses[-1]["step"], losses[-1]["loss"])


def common_kind(models: dict[str, ModelConfig]) -> dict[str, object]:
    """What the models have in common besides their sizes.

    Raises:
        UserError: they differ in something else.
    """
    (first, model), *others = models.items()
    for path, other in others:
        one, two = kind_of(model), kind_of(other)
        if differing := sorted(name for name in {*one, *two} if one.get(name) != two.get(name)):
            raise UserError(f"--runs: {path} and {first} differ in {', '.join(differing)}; a law is of one kind")
    return kind_of(model)


def table(law: LossLaw) -> list[str]:
    """The runs with what the others predict for them, and the law."""
    lines = ["| parameters | tokens | held-out loss | minus what the others predict |", "|---:|---:|---:|---:|"]
    lines += [f"| {count(run.parameters)} | {count(run.tokens)} | {run.loss:.3f} | {missed:+.3f} |"
              for run, missed in zip(law.runs, law.missed(), strict=True)]
    found = law.coefficients
    root = math.sqrt(sum(missed ** 2 for missed in law.missed()) / len(law.runs))
    return [*lines, "", f"loss = {found.limit:.3f} + {found.size_factor:.3f} / (N / 1e6)^{found.size_exponent:.3f} + "
                        f"{found.token_factor:.3f} / (D / 1e6)^{found.token_exponent:.3f}",
            f"N: parameters without the vocabulary's, D: tokens; root mean square of the last column: {root:.3f}"]


def draw(law: LossLaw, output_path: str) -> None:
    """Loss over tokens: a colour for each size, points for runs and a line for the law."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    budgets = _spaced(min(run.tokens for run in law.runs) / 2, max(run.tokens for run in law.runs) * 4)
    for number, size in enumerate(sorted({run.parameters for run in law.runs})):
        own = [run for run in law.runs if run.parameters == size]
        axes.plot([run.tokens for run in own], [run.loss for run in own], "o", color=f"C{number % 10}",
                  label=f"{count(size)} parameters")
        found = [law.expected(size, tokens) for tokens in budgets]
        axes.plot(budgets, [loss for loss, _ in found], color=f"C{number % 10}", linewidth=1.2)
        axes.fill_between(budgets, [loss - error for loss, error in found], [loss + error for loss, error in found],
                          color=f"C{number % 10}", alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xlabel("real tokens")
    axes.set_ylabel("held-out loss at the end of the run")
    axes.grid(alpha=0.3)
    axes.legend(title="without the vocabulary's")
    with atomic_path(output_path) as temporary:
        figure.savefig(temporary, dpi=120, format=picture_format(output_path))
    pyplot.close(figure)


def _spaced(first: float, last: float, points: int = 60) -> Sequence[float]:
    """Points with equal ratios."""
    return [first * (last / first) ** (number / (points - 1)) for number in range(points)]


if __name__ == "__main__":
    cli.run(main)
