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
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from uer import cli
from uer.errors import UserError
from uer.model_settings import commands_folder, find_configs

CONVERSIONS = {
    "bert-to-huggingface": "convert_bert_from_uer_to_huggingface.py",
    "bert-to-uer": "convert_bert_from_huggingface_to_uer.py",
    "text-classification-to-huggingface": "convert_bert_text_classification_from_uer_to_huggingface.py",
    "text-classification-to-uer": "convert_bert_text_classification_from_huggingface_to_uer.py",
    "token-classification-to-huggingface": "convert_bert_token_classification_from_uer_to_huggingface.py",
    "token-classification-to-uer": "convert_bert_token_classification_from_huggingface_to_uer.py",
    "extractive-qa-to-huggingface": "convert_bert_extractive_qa_from_uer_to_huggingface.py",
    "extractive-qa-to-uer": "convert_bert_extractive_qa_from_huggingface_to_uer.py",
    "bert-from-original-tf": "convert_bert_from_original_tf_to_uer.py",
    "bert-to-original-tf": "convert_bert_from_uer_to_original_tf.py",
    "albert-from-original-tf": "convert_albert_from_original_tf_to_uer.py",
    "albert-to-original-tf": "convert_albert_from_uer_to_original_tf.py",
    "gpt2-to-huggingface": "convert_gpt2_from_uer_to_huggingface.py",
    "gpt2-to-uer": "convert_gpt2_from_huggingface_to_uer.py",
    "albert-to-huggingface": "convert_albert_from_uer_to_huggingface.py",
    "albert-to-uer": "convert_albert_from_huggingface_to_uer.py",
    "xlmroberta-to-huggingface": "convert_xlmroberta_from_uer_to_huggingface.py",
    "xlmroberta-to-uer": "convert_xlmroberta_from_huggingface_to_uer.py",
    "bart-to-huggingface": "convert_bart_from_uer_to_huggingface.py",
    "bart-to-uer": "convert_bart_from_huggingface_to_uer.py",
    "t5-to-huggingface": "convert_t5_from_uer_to_huggingface.py",
    "t5-to-uer": "convert_t5_from_huggingface_to_uer.py",
    "lora-to-huggingface": "convert_lora_from_uer_to_huggingface.py",
    "pegasus-to-huggingface": "convert_pegasus_from_uer_to_huggingface.py",
    "pegasus-to-uer": "convert_pegasus_from_huggingface_to_uer.py",
    "sbert-to-huggingface": "convert_sbert_from_uer_to_huggingface.py",
    "sbert-to-uer": "convert_sbert_from_huggingface_to_uer.py",
    "modernbert-to-huggingface": "convert_modernbert_from_uer_to_huggingface.py",
    "modernbert-to-uer": "convert_modernbert_from_huggingface_to_uer.py",
    "llama-to-huggingface": "convert_llama_from_uer_to_huggingface.py",
    "llama-to-uer": "convert_llama_from_huggingface_to_uer.py",
    "qwen-to-huggingface": "convert_qwen_from_uer_to_huggingface.py",
    "qwen-to-uer": "convert_qwen_from_huggingface_to_uer.py",
    "bloom-to-huggingface": "convert_bloom_from_uer_to_huggingface.py",
    "bloom-to-uer": "convert_bloom_from_huggingface_to_uer.py",
}


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
    cli.run(lambda: _choose("uer-finetune", "TASK", tasks(_folder() / "finetune", "run_", ".py")))


def infer() -> None:
    """uer-infer TASK"""
    cli.run(lambda: _choose("uer-infer", "TASK", tasks(_folder() / "inference", "run_", "_infer.py")))


def convert() -> None:
    """uer-convert CONVERSION"""
    scripts = _folder() / "scripts"
    cli.run(lambda: _choose("uer-convert", "CONVERSION", {name: scripts / file for name, file in CONVERSIONS.items()}))


def tasks(folder: Path, start: str, end: str) -> dict[str, Path]:
    """The scripts of a folder by what they are about: run_classifier.py -> classifier."""
    return {path.name.removeprefix(start).removesuffix(end).replace("_", "-"): path
            for path in sorted(folder.glob(f"{start}*{end}"))}


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
