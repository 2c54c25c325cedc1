"""The plan of a family: what every size and the whole will cost, as a table. Nothing is trained for it."""

import dataclasses
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from uer.errors import UserError
from uer.family.config import MachineConfig
from uer.family.costs import Cost, cost_of, devices_per_model
from uer.family.devices import Devices
from uer.family.measurements import NOTHING_KNOWN, Measurements
from uer.family.recipe import Recipe
from uer.family.scheduling import elapsed_hours, start_order
from uer.family.sizes import Size
from uer.family.teaching import Teaching
from uer.planning.flops import PREDICTED
from uer.planning.hardware import GPUS, known_gpu
from uer.text import amount, count, hours

WORTH_SAYING = 0.9  # another setting is recommended if it takes less than this part of the time
WIDTH = 100


@dataclass(frozen=True)
class FamilyPlan:
    """The cost of every size, and the totals. `known` is what was measured of the corpus and of the devices."""

    recipe: Recipe
    devices: Devices
    config: MachineConfig
    vocab_size: int
    costs: tuple[Cost, ...]
    teaching: Teaching | None = None
    known: Measurements = NOTHING_KNOWN

    @property
    def per_model(self) -> int:
        """Number of devices that train one model together."""
        return devices_per_model(self.devices, self.config)

    @property
    def hours(self) -> float:
        """Estimated hours from the first start to the last end."""
        return elapsed_hours(self.costs, self.devices.count, self.per_model)

    @property
    def price(self) -> float:
        """Of all devices, from the first start to the last end."""
        return self.hours * self.devices.count * self.config.price_per_hour

    def lines(self, done: Sequence[str] = ()) -> list[str]:
        """The lines of the printed plan.

        Args:
            done: names of the sizes that are finished.
        """
        return [*self._recipe_lines(), "", *self._table(done), "", *self._total_lines(), *self._advice()]

    def _recipe_lines(self) -> list[str]:
        recipe, lines = self.recipe, []
        switches = [name for name in ("whole_word_masking", "full_sentences", "document_attention")
                    if getattr(recipe, name)]
        lines.append(f"recipe {recipe.name}: {recipe.scheduler} schedule, warmup {recipe.warmup:g}, dropout "
                     f"{recipe.dropout:g}" + "".join(f", {name.replace('_', ' ')}" for name in switches)
                     + (f", {recipe.mask_rate:.0%} of the tokens predicted" if recipe.mask_rate != PREDICTED else "")
                     + (f", gradient clipped at {recipe.max_grad_norm:g}" if recipe.max_grad_norm else ""))
        for number, stage in enumerate(recipe.stages):
            lines.append(f"stage {number + 1}: {stage.total_steps:,} steps of {stage.rows} x {stage.seq_length} tokens "
                         f"({self._division(number)}) at {stage.learning_rate:g}; {self._tokens(number)}")
        return lines

    def _division(self, stage: int) -> str:
        """How the rows of an update are divided: `8 devices x 64 rows x 1 micro-batch`."""
        splits = sorted({cost.splits[stage] for cost in self.costs})
        devices = f"{self.per_model} device{'s' * (self.per_model > 1)}"
        if len(splits) == 1:
            (rows, micro), = splits
            return f"{devices} x {rows} rows x {micro} micro-batch{'es' * (micro > 1)}"
        least, most = splits[0], splits[-1]
        return f"{devices} x {least[0] * least[1]} rows in micro-batches of {least[0]} to {most[0]}, by size"

    def _tokens(self, *stages: int) -> str:
        """`65.5 billion tokens`, or `25.6 billion tokens in 65.5 billion token slots`."""
        chosen = [(self.recipe.stages[number], self.known.fill_of(number)) for number in stages]
        slots, real = (sum(stage.tokens * part for stage, part in pairs)
                       for pairs in ([(stage, 1) for stage, _ in chosen], chosen))
        return f"{count(real)} tokens" + (f" in {count(slots)} token slots" if self.known.fill else "")

    def _table(self, done: Sequence[str]) -> list[str]:
        header = ["size", "layers/hidden", "parameters", "MFLOP/token", "FLOP", "memory", "step ms", "MFU", "hours"]
        header += ["teacher's FLOP", "teacher's hours"] * bool(self.teaching) + ["at once"]
        rows = [header]
        for cost in self.costs:
            per_token = " ".join(f"{flops / stage.tokens / self.known.fill_of(number) / 1e6:.1f}"
                                 for number, (flops, stage) in enumerate(zip(cost.flops, self.recipe.stages)))
            steps = " ".join(milliseconds(step.seconds) for step in cost.steps)
            taught = [f"{cost.teacher_flops:.2e}", hours(cost.teacher_hours)] if cost.teacher_flops else ["-", "-"]
            rows.append([cost.size.name, cost.size.label, f"{cost.parameters / 1e6:.1f} M", per_token,
                         f"{sum(cost.flops):.2e}", f"{cost.memory_bytes / 2**30:.1f} GiB", steps, f"{cost.mfu:.0%}",
                         hours(cost.hours), *taught * bool(self.teaching),
                         f"{cost.at_once}" + ("  done" if cost.size.name in done else "")])
        return aligned(rows)

    def _total_lines(self) -> list[str]:
        devices = self.devices
        flops = sum(sum(cost.flops) for cost in self.costs)
        note = f" ({devices.note})" if devices.note else ""
        precision = f" in {devices.precision}" if devices.precision else ""
        tokens = self._tokens(*range(len(self.recipe.stages)))
        lines = [f"{amount(len(self.costs), 'model')}: {flops:.2e} FLOP, {tokens} each",
                 f"on {devices.count} x {devices.name} at {devices.peak_flops / 1e12:.3g} TFLOP/s{precision}{note}: "
                 f"{hours(self.hours)} from start to end"]
        if self.teaching:
            lines += textwrap.wrap(self._teaching_line(), WIDTH)
        if self.config.price_per_hour:
            lines[1] += (f", {self.hours * devices.count:,.0f} device hours, {self.price:,.0f} at "
                          f"{self.config.price_per_hour:g} an hour")
        lines += textwrap.wrap(self._fill_line(), WIDTH) + textwrap.wrap(self._speed_line(), WIDTH)
        crowded = [cost.size.name for cost in self.costs
                   if devices.memory_bytes and cost.memory_bytes > 0.9 * devices.memory_bytes]
        if crowded:
            lines.append(f"memory: {', '.join(crowded)} may not fit; give a smaller --batch_size (gradients are "
                         "then accumulated)")
        return lines

    def _fill_line(self) -> str:
        """What the plan counts as tokens."""
        if self.known.fill:
            parts = " and ".join(f"{part:.0%}" for part in self.known.fill)
            return f"{parts} of the token slots are tokens ({self.known.source}); nothing is computed for the rest"
        return "" if self.recipe.full_sentences else (
            "every token slot is counted as a token, because the corpus is not known; nothing is computed for padding: "
            "--fill 0.4 counts 40% of the slots")

    def _speed_line(self) -> str:
        """Where the step times come from."""
        if self.config.mfu:
            return ""
        replaced = "set --mfu to what the reports of pretrain.py show on your machine"
        if self.devices.kind == "cpu":
            return f"MFU is assumed, not measured; {replaced}"
        measured = [cost.size.name for cost in self.costs
                    if any(one.is_of(cost.size) for one in self.known.step_times)]
        rest = len(self.costs) - len(measured)
        if measured:
            return (f"step times on one GPU are measured for {', '.join(measured)} (--step_times)"
                    + (f" and assumed for {rest} other size{'s' * (rest > 1)}" if rest else "")
                    + "; the all-reduce is assumed")
        return f"step times and MFU are assumed, not measured (docs/scaling.md); give --step_times, or {replaced}"

    def _teaching_line(self) -> str:
        taught = [cost for cost in self.costs if cost.teacher_flops]
        return (f"teacher: {self.teaching.describe()}; {len(taught)} smaller sizes learn from it in every stage; its "
                f"forward passes are {sum(cost.teacher_flops for cost in taught):.2e} FLOP and "
                f"{hours(sum(cost.teacher_hours for cost in taught))} of the totals above")

    def _advice(self) -> list[str]:
        """Settings that would be faster."""
        return [*self._precision_advice(), *self._division_advice(), *self._sharing_advice()]

    def _precision_advice(self) -> list[str]:
        """On a GPU without bf16, --precision auto is fp32, and fp16 is faster."""
        devices, known = self.devices, known_gpu(self.devices.name)
        asked = self.config.precision != "auto" or self.config.peak_flops
        if devices.kind != "cuda" or devices.precision != "fp32" or asked or not known:
            return []
        half = dataclasses.replace(devices, precision="fp16", peak_flops=GPUS[known].half)
        sizes = [cost.size for cost in self.costs]
        other = make_plan(sizes, self.recipe, self.vocab_size, half, self.config, self.teaching,
                          self.known)
        return [f"{known} has no bf16, so --precision auto is fp32; --precision fp16 would take {hours(other.hours)}"]

    def _division_advice(self) -> list[str]:
        """Whether another number of devices for each model would be faster.

        A small model's step is short, so that the waits for kernels to start and for the all-reduce are a large part of
        it: several models side by side lose less.
        """
        plans = [self._with(gpus_per_model=number) for number in divisors(self.devices.count)]
        best = min((plan for plan in plans if plan), key=lambda plan: plan.hours, default=self)
        if best.hours > WORTH_SAYING * self.hours:
            return []
        each = "a GPU of its own" if best.per_model == 1 else f"{best.per_model} GPUs"
        return [f"with --gpus_per_model {best.per_model} it would take {hours(best.hours)}: each model on {each}, "
                "several models side by side"]

    def _sharing_advice(self) -> list[str]:
        """Why no models share a GPU."""
        if self.devices.kind == "cpu" or self.devices.concurrent:
            return []
        return ["without CUDA MPS processes on one GPU take turns, so each GPU trains one model at a time"]

    def _with(self, **changes: Any) -> "FamilyPlan | None":
        """The plan with other settings of the machine; None where it cannot be."""
        try:
            return make_plan([cost.size for cost in self.costs], self.recipe, self.vocab_size, self.devices,
                             dataclasses.replace(self.config, **changes), self.teaching, self.known)
        except UserError:
            return None

    def start_lines(self) -> list[str]:
        """The order of the trainings, and which sizes share a device."""
        order = start_order(self.costs)
        shared = [cost.size.name for cost in order if cost.at_once > 1]
        lines = textwrap.wrap(f"order: {', '.join(cost.size.name for cost in order)}", WIDTH)
        if shared:
            lines += textwrap.wrap(f"several at once on one device: {', '.join(shared)}", WIDTH)
        return lines


def make_plan(sizes: Sequence[Size], recipe: Recipe, vocab_size: int, devices: Devices,
              config: MachineConfig, teaching: Teaching | None = None,
              known: Measurements = NOTHING_KNOWN) -> FamilyPlan:
    """The plan for these sizes.

    Raises:
        UserError: the devices or the rows of a batch cannot be divided evenly, or sequences are longer than a model's
            position embedding.
    """
    longest = max(stage.seq_length for stage in recipe.stages)
    for size in sizes:
        if size.config.max_seq_length < longest:
            raise UserError(f"--seq_length {longest}: {size.name} has {size.config.max_seq_length} positions "
                            f"(max_seq_length in {size.config_path})")
    costs = tuple(cost_of(size, recipe, vocab_size, devices, config, teaching, known) for size in sizes)
    return FamilyPlan(recipe, devices, config, vocab_size, costs, teaching, known)


def milliseconds(seconds: float) -> str:
    """0.0009 -> "0.90", 0.0157 -> "15.7", 0.2 -> "200" """
    return f"{seconds * 1000:.{2 if seconds < 0.00995 else 1 if seconds < 0.0995 else 0}f}"


def divisors(number: int) -> list[int]:
    """6 -> [1, 2, 3, 6]"""
    return [part for part in range(1, number + 1) if number % part == 0]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first two columns are left-aligned, the others right-aligned."""
    widths = [max(len(row[column].removesuffix("  done")) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) if column < 2 else " " * (width - len(cell.removesuffix("  done"))) + cell
                 for column, (cell, width) in enumerate(zip(row, widths))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    return lines
