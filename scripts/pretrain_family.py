"""Pretrain a family of encoders, from a corpus to Hugging Face folders; the same command continues where it stopped.

    python3 scripts/pretrain_family.py --sizes all --corpus_path corpus.txt --output_dir family
    python3 scripts/pretrain_family.py --sizes tiny mini 8/512 --dry_run --device_name H100 --device_count 8
    python3 scripts/pretrain_family.py --sizes tiny mini --teacher base --corpus_path corpus.txt --output_dir taught
    python3 scripts/pretrain_family.py --sizes tiny --architecture modern --corpus_path corpus.txt --output_dir modern

The corpus is preprocessed once for each sequence length. Each size is trained in every stage of the recipe, converted,
and gets a model card. Commands whose output exists are not run again, and an interrupted training is resumed. Exit
status 0: finished; 2: an error that the user can correct, in one line; 130 and 143: stopped by Ctrl-C and by SIGTERM,
after everything was saved.
"""

import shlex
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.config import TokenizerConfig
from uer.errors import UserError
from uer.family.commands import FIRST_PORT, FamilyFolder, check_datasets, check_teacher, dataset_paths
from uer.family.config import FamilyConfig, MachineConfig, RecipeConfig, TeachingConfig
from uer.family.devices import find_devices
from uer.family.measurements import measure
from uer.family.plan import FamilyPlan, make_plan
from uer.family.recipe import build_recipe, check_recipe_file, corpus_facts, settings_of
from uer.family.runner import Runner, Stopped, lock_folder
from uer.family.scaling_tables import scaling_lines
from uer.family.scheduling import start_order
from uer.family.sizes import check_architecture, resolve
from uer.family.teaching import build_teaching
from uer.model_settings import model_settings
from uer.text import amount
from uer.tokenizers import build_tokenizer

ROOT = Path(__file__).resolve().parent.parent
# The vocabulary size that a plan assumes when there is no vocabulary file yet.
GOOGLE_ENTRIES = 21128


def main() -> None:
    """Read the flags, print the plan and run it."""
    sections = (FamilyConfig, RecipeConfig, TeachingConfig, MachineConfig)
    config, recipe_config, teaching_config, machine = cli.parse(__doc__, sections)
    if machine.device_name and not (config.dry_run or config.show_commands):
        raise UserError("--device_name is for --dry_run and --show_commands; training runs on this machine's devices")
    configs, recipe = ROOT / config.made.folder, build_recipe(recipe_config, config.made.recipe)
    vocab_size, devices = _vocab_size(config), find_devices(machine)
    teaching = build_teaching(teaching_config, recipe, vocab_size, configs,
                              partial(model_settings, flag="--teacher_config_path"), not config.dry_run)
    trained_first = (teaching_config.teacher,) if teaching_config.teacher else ()
    sizes = resolve((*config.sizes, *trained_first), configs, partial(model_settings, flag="--sizes"))
    check_architecture(sizes, config.architecture)
    known = measure(machine, recipe, devices, dataset_paths(config, recipe))
    plan = make_plan(sizes, recipe, vocab_size, devices, machine, teaching, known)
    family = FamilyFolder(ROOT, config, machine, recipe, devices.kind, plan.per_model, vocab_size, teaching,
                          {cost.size.name: cost for cost in plan.costs}, devices.memory_bytes)
    print("\n".join([*config.made.lines(sizes[0].config, machine.document_length),
                     *plan.lines([size.name for size in sizes if family.finished(size)]), *plan.start_lines()]),
          flush=True)
    if config.scaling:
        print("\n".join(scaling_lines(plan)), flush=True)
    if config.show_commands:
        _show_commands(family, plan)
    elif not config.dry_run:
        _run(family, plan)


def _vocab_size(config: FamilyConfig) -> int:
    """Number of entries of the vocabulary; `--dry_run` does not download a missing one."""
    if config.dry_run and not Path(config.vocab_path).exists():
        _say(f"{config.vocab_path} does not exist: the plan assumes {GOOGLE_ENTRIES:,} entries")
        return GOOGLE_ENTRIES
    tokenizer = TokenizerConfig(vocab_path=config.vocab_path, do_lower_case=config.do_lower_case)
    return len(build_tokenizer(tokenizer).vocab)


def _show_commands(family: FamilyFolder, plan: FamilyPlan) -> None:
    """Print the commands that are left to run."""
    commands = [*family.preprocess_commands()]
    for number, cost in enumerate(start_order(plan.costs)):
        if not family.finished(cost.size):
            commands += family.model_commands(cost.size, FIRST_PORT + number)
    for command in commands:
        if not command.done():
            print(shlex.join(command.argv))


def _run(family: FamilyFolder, plan: FamilyPlan) -> None:
    """Make every model of the plan that is not finished."""
    config, teacher = family.config, family.teaching.facts() if family.teaching else {}
    made = {} if config.architecture == "bert" else {"architecture": config.architecture}
    with lock_folder(family.folder, _say) as lock:
        settings = settings_of(family.recipe, corpus=corpus_facts(config.corpus_path), vocab_path=config.vocab_path,
                               do_lower_case=config.do_lower_case, dev_fraction=family.machine.dev_fraction, **teacher,
                               **made)
        check_recipe_file(family.folder / "family.json", settings)
        check_datasets(family)
        check_teacher(family, [cost.size for cost in plan.costs])
        try:
            Runner(family, lock, _say).run(plan.costs, plan.devices.count)
        except Stopped as stopped:
            _say("stopped; everything is saved, the same command continues")
            sys.exit(128 + stopped.number)
    _say(f"done: {amount(len(plan.costs), 'model')} in {family.folder}")


def _say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


if __name__ == "__main__":
    cli.run(main)
