"""What a plan knows about the corpus and the speed of the devices, beyond its assumptions."""

from dataclasses import dataclass
from pathlib import Path

from uer.data.store import open_dataset
from uer.errors import UserError
from uer.family.config import MachineConfig
from uer.family.devices import Devices
from uer.family.recipe import Recipe
from uer.family.scaling import Measured, read_step_times


@dataclass(frozen=True)
class Measurements:
    """Facts for a plan.

    Attributes:
        fill: of each stage, the part of its token slots that are tokens and not padding; () where it is unknown: then
            every slot is counted as a token.
        source: where `fill` comes from.
        step_times: measured updates, by --step_times.
    """

    fill: tuple[float, ...] = ()
    source: str = ""
    step_times: tuple[Measured, ...] = ()

    def fill_of(self, stage: int) -> float:
        """Of stage number `stage`, counted from 0."""
        return self.fill[stage] if self.fill else 1.0


NOTHING_KNOWN = Measurements()


def measure(config: MachineConfig, recipe: Recipe, devices: Devices, datasets: dict[int, Path]) -> Measurements:
    """What the flags and the datasets in the output folder say.

    Args:
        config: --fill and --step_times.
        recipe: the stages.
        devices: those of the plan.
        datasets: sequence length -> path of its dataset, which need not exist.

    Raises:
        UserError: --fill has another number of values than there are stages, or see `read_step_times`.
    """
    times = tuple(read_step_times(config.step_times, devices)) if config.step_times else ()
    if config.fill:
        if len(config.fill) not in (1, len(recipe.stages)):
            raise UserError(f"--fill: one number is needed, or one for each of {len(recipe.stages)} stages")
        return Measurements(config.fill * (len(recipe.stages) // len(config.fill)), "by --fill", times)
    lengths = [stage.seq_length for stage in recipe.stages]
    if not all(datasets[length].exists() for length in lengths):
        return Measurements((), "", times)
    return Measurements(tuple(dataset_fill(datasets[length], length) for length in lengths),
                        "counted in the datasets", times)


def dataset_fill(path: Path, seq_length: int) -> float:
    """Tokens of a dataset / (instances x seq_length)."""
    dataset = open_dataset(path)
    return len(dataset.tokens) / max(1, len(dataset) * seq_length)
