"""Pretrain a family of encoders, from corpus to Hugging Face folders; the same command goes on where it stopped.

    python3 scripts/pretrain_family.py --sizes all --corpus_path corpus.txt --output_dir family
    python3 scripts/pretrain_family.py --sizes tiny mini 8/512 --dry_run --device_name H100 --device_count 8
    python3 scripts/pretrain_family.py --sizes tiny mini --teacher base --corpus_path corpus.txt --output_dir taught

Each length is preprocessed once; each size is trained in every stage of the recipe, converted, and given a model card.
Only what is not done yet is run, and what is half done goes on. Status 0: finished; 2: something the user can mend,
said in one line; 130 and 143: stopped by Ctrl-C and by SIGTERM, with everything saved.
"""

import secrets
import shlex
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.config import TokenizerConfig
from uer.errors import UserError
from uer.family.config import FamilyConfig, MachineConfig, RecipeConfig, TeachingConfig
from uer.family.devices import find_devices, spread
from uer.family.lanes import start_order
from uer.family.nodes import Launch, parse_torchrun, write_launch
from uer.family.plan import FamilyPlan, make_plan
from uer.family.recipe import build_recipe, check_recipe_file, corpus_facts, settings_of
from uer.family.runner import Follower, Runner, Stopped, locked
from uer.family.sizes import resolve
from uer.family.teaching import build_teaching
from uer.family.work import FIRST_PORT, Workshop, check_datasets, check_teacher
from uer.model_settings import model_settings
from uer.tokenizers import build_tokenizer

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "models" / "bert"
# Entries of the vocabulary that a plan reckons with where there is none yet.
GOOGLE_ENTRIES = 21128


def main() -> None:
    """Read the flags, plan, run."""
    sections = (FamilyConfig, RecipeConfig, TeachingConfig, MachineConfig)
    config, recipe_config, teaching_config, machine = cli.parse(__doc__, sections)
    if machine.device_name and not config.dry_run:
        raise UserError("--device_name is for --dry_run; training runs on the devices at hand")
    recipe, vocab_size, devices = build_recipe(recipe_config), _vocab_size(config), find_devices(machine)
    torchrun = parse_torchrun(machine.torchrun, devices.count if devices.kind == "cuda" else 0) if machine.torchrun \
        else None
    devices = spread(devices, torchrun) if torchrun else devices
    teaching = build_teaching(teaching_config, recipe, vocab_size, CONFIGS,
                              partial(model_settings, flag="--teacher_config_path"), not config.dry_run)
    trained_first = (teaching_config.teacher,) if teaching_config.teacher else ()
    sizes = resolve((*config.sizes, *trained_first), CONFIGS, partial(model_settings, flag="--sizes"))
    plan = make_plan(sizes, recipe, vocab_size, devices, machine, teaching)
    workshop = Workshop(ROOT, config, machine, recipe, devices.kind, plan.per_model, vocab_size, teaching, torchrun,
                        secrets.token_hex(4))
    print("\n".join([*plan.lines([size.name for size in sizes if workshop.finished(size)]), *plan.start_lines()]),
          flush=True)
    if config.show_commands:
        _show_commands(workshop, plan)
    elif not config.dry_run:
        _run(workshop, plan)


def _vocab_size(config: FamilyConfig) -> int:
    """Of the vocabulary; a plan alone does not fetch it."""
    if config.dry_run and not Path(config.vocab_path).exists():
        _say(f"{config.vocab_path} is not there: reckoning with {GOOGLE_ENTRIES:,} entries")
        return GOOGLE_ENTRIES
    tokenizer = TokenizerConfig(vocab_path=config.vocab_path, do_lower_case=config.do_lower_case)
    return len(build_tokenizer(tokenizer).vocab)


def _show_commands(workshop: Workshop, plan: FamilyPlan) -> None:
    """What is left to run, as it would be typed."""
    steps = [*workshop.preprocess_steps()]
    for number, cost in enumerate(start_order(plan.costs)):
        if not workshop.finished(cost.size):
            steps += workshop.model_steps(cost.size, FIRST_PORT + number)
    for step in steps:
        if not step.done():
            print(shlex.join(step.argv))


def _run(workshop: Workshop, plan: FamilyPlan) -> None:
    node = workshop.torchrun.node if workshop.torchrun else 0
    with locked(workshop.folder, _say, node=node) as lock:
        try:
            if node:
                Follower(workshop, lock, _say).run(plan.costs, plan.devices.count)
            else:
                _lead(workshop, plan, lock)
        except Stopped as stopped:
            _say("stopped; everything is saved, the same command goes on")
            sys.exit(128 + stopped.number)
    _say(f"done: {len(plan.costs)} models in {workshop.folder}")


def _lead(workshop: Workshop, plan: FamilyPlan, lock: int) -> None:
    """Make everything; other machines are told when it ends early."""
    config, facts = workshop.config, workshop.teaching.facts() if workshop.teaching else {}
    try:
        settings = settings_of(workshop.recipe, corpus=corpus_facts(config.corpus_path), vocab_path=config.vocab_path,
                               do_lower_case=config.do_lower_case, dev_fraction=workshop.machine.dev_fraction, **facts)
        check_recipe_file(workshop.folder / "family.json", settings)
        check_datasets(workshop)
        check_teacher(workshop, [cost.size for cost in plan.costs])
        Runner(workshop, lock, _say).run(plan.costs, plan.devices.count)
    except BaseException as error:
        if workshop.torchrun and workshop.torchrun.nodes > 1:
            reason = f"stopped by signal {error.number}" if isinstance(error, Stopped) else str(error)
            write_launch(workshop.folder, Launch(f"{workshop.launch_id}-end", reason=reason))
        raise


def _say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


if __name__ == "__main__":
    cli.run(main)
