"""Which settings of a pretraining run exclude one another, or what this machine has."""

import torch

from uer.config import TrainConfig
from uer.errors import UserError
from uer.runtime.precision import Precision
from uer.training.inputs import Settings

ADAMW = ("adamw", "stableadamw")
"""Optimizers that update shards and masters, and never need the host."""


def require_possible(settings: Settings) -> None:
    """Refuse what no machine can do.

    Raises:
        UserError: two settings exclude one another.
    """
    if settings.parallel.sharding == "fsdp" and settings.optim.optimizer not in ADAMW:
        raise UserError(f"--sharding fsdp works with --optimizer {' and '.join(ADAMW)}, not "
                        f"{settings.optim.optimizer}, whose state cannot be split")
    if settings.parallel.tensor_parallel_size > 1 and (problems := tensor_parallel_problems(settings)):
        raise UserError(f"--tensor_parallel_size: {'; '.join(problems)}")
    if settings.train.weights_dtype != "fp32":
        if settings.parallel.sharding == "fsdp":
            raise UserError("--weights_dtype bf16 needs --sharding none; fsdp keeps float32 weights and gathers them "
                            "in bf16 itself")
        if settings.optim.optimizer not in ADAMW:
            raise UserError(f"--weights_dtype bf16 works with --optimizer {' and '.join(ADAMW)}, which keep float32 "
                            f"masters, not {settings.optim.optimizer}")
    if settings.train.sampled_softmax and settings.distillation.teacher_model_path:
        raise UserError("--sampled_softmax: the distribution of --teacher_model_path has all entries")
    if settings.lora.use_lora and (problems := lora_problems(settings)):
        raise UserError(f"--use_lora {problems[0]}")


def lora_problems(settings: Settings) -> list[str]:
    """Why a run cannot train adapters, one line for each reason."""
    checks = {"needs --pretrained_model_path: a model of random weights is not worth freezing":
                  not settings.train.pretrained_model_path,
              "needs --tensor_parallel_size 1": settings.parallel.tensor_parallel_size > 1,
              "needs --sharding none: frozen weights are whole on each rank": settings.parallel.sharding != "none",
              "needs --weights_dtype fp32": settings.train.weights_dtype != "fp32"}
    return [problem for problem, found in checks.items() if found]


def tensor_parallel_problems(settings: Settings) -> list[str]:
    """Why this run's model cannot be divided among ranks, one line for each reason."""
    checks = {f"--optimizer {settings.optim.optimizer} needs whole matrices": settings.optim.optimizer != "adamw",
              "--weights_dtype bf16 needs whole layers": settings.train.weights_dtype != "fp32",
              "--compile on: the sums over ranks are not compiled": settings.train.compile == "on",
              "--sampled_softmax chooses among all entries": settings.train.sampled_softmax > 0,
              "--teacher_model_path: a teacher's logits are whole": bool(settings.distillation.teacher_model_path)}
    return [problem for problem, found in checks.items() if found]


def graph_problems(settings: Settings) -> list[str]:
    """Why an update of this run cannot be a CUDA graph, one line for each reason."""
    checks = {"this run has no GPU": not torch.cuda.is_available() or settings.parallel.device == "cpu",
              f"--optimizer {settings.optim.optimizer} needs the host": settings.optim.optimizer not in ADAMW,
              "--tensor_parallel_size adds up the ranks' results": settings.parallel.tensor_parallel_size > 1,
              "--sharding fsdp launches its own kernels": settings.parallel.sharding != "none",
              "--gradient_compression bf16 belongs to DistributedDataParallel":
                  settings.parallel.gradient_compression != "none",
              "--activation_checkpointing keeps the state of random generators":
                  settings.parallel.activation_checkpointing != "off"}
    return [problem for problem, found in checks.items() if found]


def initial_settings(config: TrainConfig) -> list[str]:
    """The flags of new weights that are not at their default."""
    names = ("deep_init", "initializer_range", "position_init", "output_bias_init")
    return [f"--{name}" for name in names if getattr(config, name) != getattr(TrainConfig, name)]


def check_weights_dtype(weights_dtype: str, precision: Precision) -> None:
    """Check that autocast has the type of the weights.

    Raises:
        UserError: it has another.
    """
    if weights_dtype not in ("fp32", precision.name):
        raise UserError(f"--weights_dtype {weights_dtype} needs --precision {weights_dtype}, not {precision.name}")
