"""What `--dry_run --scaling` prints: step times of sizes, and hours of the family, for 1 to 1,024 GPUs."""

import dataclasses

from uer.errors import UserError
from uer.family.plan import FamilyPlan, aligned, divisors, make_plan, milliseconds
from uer.family.recipe import Stage
from uer.family.scaling import Batch, StepTime, step_time
from uer.family.sizes import Size
from uer.text import hours

RANKS = tuple(2**power for power in range(11))
MOST_SIZES = 4
"""Of more sizes the tables of step times are left out."""
EFFICIENT = 0.5
"""With a lower efficiency, GPUs are better used by several models side by side."""

SLACK = 1.05
"""How much longer than the least a family may take with fewer GPUs for each model."""


def scaling_lines(plan: FamilyPlan) -> list[str]:
    """The tables of the plan's first stage, of at most `MOST_SIZES` sizes, and that of the family."""
    sizes = [cost.size for cost in plan.costs]
    shown = sizes if len(sizes) <= MOST_SIZES else []
    return [line for part in (*(size_lines(plan, size) for size in shown), family_lines(plan)) for line in ("", *part)]


def size_lines(plan: FamilyPlan, size: Size) -> list[str]:
    """Step times of one size in the first stage.

    Weak scaling: every GPU has the stage's micro-batch, so that the batch grows with the GPUs. Strong scaling: the
    batch of an update is the stage's.
    """
    stage = plan.recipe.stages[0]
    rows = [["GPUs", "compute", "update", "all-reduce", "exposed", "step ms", "efficiency", "rows a GPU", "step ms",
             "efficiency"]]
    weak_alone, strong_alone = _step(plan, size, stage.batch_size, 1), _step(plan, size, stage.rows, 1)
    useful = 1
    for ranks in RANKS:
        weak = _step(plan, size, stage.batch_size, ranks)
        row = [str(ranks), *map(milliseconds, (weak.compute, weak.update, weak.all_reduce, weak.exposed, weak.seconds)),
               f"{weak_alone.seconds / weak.seconds:.0%}"]
        if stage.rows % ranks == 0:
            strong = _step(plan, size, stage.rows // ranks, ranks)
            efficiency = strong_alone.seconds / strong.seconds / ranks
            useful = ranks if efficiency >= EFFICIENT else useful
            row += [str(stage.rows // ranks), milliseconds(strong.seconds), f"{efficiency:.0%}"]
        rows.append(row + [""] * (len(rows[0]) - len(row)))
    return [f"{size.name}: on the left {stage.batch_size} rows of {stage.seq_length} on every GPU, on the right "
            f"{stage.rows} rows on all together", *aligned(rows),
            f"{stage.rows} rows use {useful} GPU{'s' * (useful > 1)} with an efficiency of {EFFICIENT:.0%} or more; "
            "train several models side by side on more"]


def family_lines(plan: FamilyPlan) -> list[str]:
    """Hours of all models, with a good number of GPUs for each model."""
    rows = [["GPUs", "GPUs a model", "hours", "device hours", "efficiency", "models side by side"]]
    alone = None
    for count in RANKS:
        best = _best(plan, count)
        alone = alone or best.hours
        models = min(len(plan.costs), count // best.per_model)
        rows.append([str(count), str(best.per_model), hours(best.hours), f"{best.hours * count:,.0f}",
                     f"{alone / best.hours / count:.0%}", str(models)])
    return [f"{len(plan.costs)} models, each on the fewest GPUs with which all take at most {SLACK - 1:.0%} longer "
            "than the least", *aligned(rows)]


def _best(plan: FamilyPlan, count: int) -> FamilyPlan:
    """The plan for so many GPUs with the fewest GPUs for each model that takes hardly longer than the fastest."""
    devices = dataclasses.replace(plan.devices, count=count)
    found = []
    for per_model in divisors(count):
        config = dataclasses.replace(plan.config, gpus_per_model=per_model)
        try:
            found.append(make_plan([cost.size for cost in plan.costs], plan.recipe, plan.vocab_size, devices, config,
                                   plan.teaching, plan.known))
        except UserError:  # the rows of a batch cannot be divided by so many
            continue
    least = min(one.hours for one in found)
    return next(one for one in found if one.hours <= SLACK * least)


def _step(plan: FamilyPlan, size: Size, rows: int, ranks: int) -> StepTime:
    """An update of so many rows on each of the ranks, in one micro-batch."""
    stage: Stage = plan.recipe.stages[0]
    batch = Batch(rows, 1, stage.seq_length * plan.known.fill_of(0), plan.recipe.mask_rate,
                  plan.config.document_length * plan.recipe.document_attention)
    return step_time(size, plan.vocab_size, batch, ranks, plan.devices, plan.config.mfu, plan.known.step_times)
