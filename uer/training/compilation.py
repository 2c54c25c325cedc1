"""Which runs are compiled with torch.compile, and how."""

from torch import nn

from uer.config import TrainConfig
from uer.runtime.parallel import World


def compile_step(forward: nn.Module, combo_kernels: bool = False) -> None:
    """Compile a step: for one size of batch, and when others come, once more for all sizes.

    Args:
        combo_kernels: let torch's compiler combine kernels that do not depend on one another.
    """
    forward.compile(options={"combo_kernels": True} if combo_kernels else None)


def is_compiled(config: TrainConfig, world: World) -> bool:
    """Whether torch.compile is used, which needs static shapes: with --compile on, and on GPUs with --compile auto, but
    not where ranks compute layers together."""
    automatic = world.device.type == "cuda" and world.config.tensor_parallel_size == 1
    return config.compile == "on" or (config.compile == "auto" and automatic)
