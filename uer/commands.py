"""The console commands of an installed package: each runs an entry script, which is installed with it.

    uer-preprocess FLAGS           preprocess.py
    uer-pretrain FLAGS             pretrain.py
    uer-finetune TASK FLAGS        finetune/run_<task>.py
    uer-infer TASK FLAGS           inference/run_<task>_infer.py
    uer-convert CONVERSION FLAGS   scripts/convert_<...>.py
    uer-family FLAGS               scripts/pretrain_family.py

Shipped settings (`--config_path models/bert/tiny_config.json`) are found from any folder.
"""

import difflib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from uer import cli
from uer.errors import UserError
from uer.model_settings import commands_folder, find_configs


def preprocess() -> None:
    """uer-preprocess"""
    _run("uer-preprocess", _folder() / "preprocess.py", sys.argv[1:])


def pretrain() -> None:
    """uer-pretrain"""
    _run("uer-pretrain", _folder() / "pretrain.py", sys.argv[1:])


def family() -> None:
    """uer-family"""
    _run("uer-family", _folder() / "scripts" / "pretrain_family.py", sys.argv[1:])


def finetune() -> None:
    """uer-finetune TASK"""
    cli.run(lambda: _choose("uer-finetune", "TASK", tasks(_folder() / "finetune", ".py")))


def infer() -> None:
    """uer-infer TASK"""
    cli.run(lambda: _choose("uer-infer", "TASK", tasks(_folder() / "inference", "_infer.py")))


def convert() -> None:
    """uer-convert CONVERSION"""
    cli.run(lambda: _choose("uer-convert", "CONVERSION", conversions(_folder() / "scripts")))


def tasks(folder: Path, end: str) -> dict[str, Path]:
    """The scripts of a folder by what they are about: run_classifier.py -> classifier."""
    return {path.name.removeprefix("run_").removesuffix(end).replace("_", "-"): path
            for path in sorted(folder.glob(f"run_*{end}"))}


def conversions(folder: Path) -> dict[str, Path]:
    """The scripts of a folder by what they convert: convert_bert_from_uer_to_huggingface.py -> bert-to-huggingface,
    convert_bert_text_classification_from_huggingface_to_uer.py -> text-classification-to-uer,
    convert_bert_from_original_tf_to_uer.py -> bert-from-original-tf."""
    found = {}
    for path in sorted(folder.glob("convert_*.py")):
        model, source, target = re.fullmatch(r"convert_(.+)_from_(.+)_to_(.+)", path.stem).groups()
        end = "from_original_tf" if source == "original_tf" else f"to_{target}"
        found[f"{model.removeprefix('bert_')}_{end}".replace("_", "-")] = path
    return found


def _choose(command: str, what: str, scripts: Mapping[str, Path]) -> None:
    """Run the script that the first argument names, with the other arguments."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"usage: {command} {what} FLAGS\n\n{what} is one of:\n  " + "\n  ".join(scripts)
              + f"\n\n{command} {what} --help lists the flags.")
        sys.exit(0 if len(sys.argv) > 1 else 2)
    name = sys.argv[1].replace("_", "-").removeprefix("run-")
    if name not in scripts:
        close = difflib.get_close_matches(name, scripts, n=1)
        raise UserError(f"{command}: '{sys.argv[1]}' is unknown"
                        + (f"; did you mean {close[0]}?" if close else f"; choose from: {', '.join(scripts)}"))
    _run(f"{command} {name}", scripts[name], sys.argv[2:])


def _folder() -> Path:
    folder = commands_folder()
    if folder is None:
        print("error: the entry scripts are not installed; install the package with pip", file=sys.stderr)
        sys.exit(2)
    return folder


def _run(command: str, script: Path, arguments: list[str]) -> None:
    """Run a script as `python3 script` does, under the command's name; processes that it starts find it by its path."""
    sys.argv = [command, *find_configs(arguments)]
    sys.path.insert(0, str(script.parent))
    main = ModuleType("__main__")
    main.__file__ = str(script)
    sys.modules["__main__"] = main
    exec(compile(script.read_bytes(), str(script), "exec"), main.__dict__)
