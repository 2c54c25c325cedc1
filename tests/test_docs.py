"""The examples of the documentation run: the Python of docs/python.md and README.md, and the examples in docstrings.

The blocks of a page run in order, in a folder with tiny models that have the names of the page. The commands of all
pages name scripts and flags that exist, links lead to files, and the code in docs/extending.md is the repository's.
"""

import doctest
import importlib
import json
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tools.scripts import flags_of, sections_of
from uer.checkpoint.files import save_weights
from uer.config import ModelConfig
from uer.convert import ARCHITECTURES
from uer.convert.folder import write_folder
from uer.convert.names import from_uer
from uer.finetuning.labels import LabelSet
from uer.finetuning.saved_model import save_finetuned
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import Classification
from uer.model import build_model
from uer.tokenizers import BertTokenizer, Vocab

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(str(path.relative_to(ROOT)) for pattern in ("*.md", "*/*.md") for path in ROOT.glob(pattern)
               if path.name != "BENCHMARKS.md")
CONFIG = ModelConfig(emb_size=128, hidden_size=128, feedforward_size=512, heads_num=2, layers_num=2,
                     embedding=("word", "pos", "seg"), tie_weights=True)


@pytest.fixture
def folder(tmp_path, monkeypatch, root):
    """Models of random weights."""
    page = (root / "docs/python.md").read_text(encoding="utf-8")
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(re.findall("[\u4e00-\u9fff]", page)))]
    vocab = Vocab(tokens)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/google_zh_vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    torch.manual_seed(1)
    weights = build_model(CONFIG, len(tokens)).state_dict()
    save_weights(weights, tmp_path / "models/tiny.bin-1000")
    task = Classification(LabelSet(("0", "1")))
    save_finetuned(tmp_path / "models/finetuned_model.bin", task.build(CONFIG, len(tokens)).state_dict(), task, CONFIG,
                   TextToRows(BertTokenizer(vocab, True), 128), {})
    (tmp_path / "chinese_roberta_L-2_H-128").mkdir()
    bert = ARCHITECTURES["bert"]
    write_folder(tmp_path / "chinese_roberta_L-2_H-128", from_uer(weights, bert.names, "mlm", "it").weights, bert.names,
                 "mlm", bert.config_json(CONFIG, len(tokens), "mlm"),
                 BertTokenizer(vocab, True), CONFIG.max_seq_length)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_python_page_runs(folder, root, capsys):
    page = (root / "docs/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, object] = {}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"block {number} of docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "TextModel('models/tiny.bin-1000': pretrained, 2 layers, hidden 128" in printed
    assert printed.count("{'0': ") == 2


def test_what_the_page_names_exists(root):
    page = (root / "docs/python.md").read_text(encoding="utf-8")
    for path in re.findall(r"`?python3 (\S+\.py)|`((?:finetune|inference|scripts)/\S+?\.py)`", page):
        assert (root / (path[0] or path[1])).is_file(), path
    for name in re.findall(r"`(run_\w+\.py)`", page):
        assert (root / "finetune" / name).is_file(), name
    assert json.loads((root / "models/bert/tiny_config.json").read_text())["hidden_size"] == CONFIG.hidden_size


def commands(text: str) -> list[list[str]]:
    """The commands of a page that run a script of the repository: ["pretrain.py", "--dataset_path", ...]."""
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    found = (re.match(r"\s*(?:\S+\$)?\s*(?:python3|torchrun .*?|srun python3) ((?:\w+/)*\w+\.py)\b(.*)", line)
             for line in lines)
    return [[match[1], *match[2].split()] for match in found if match]


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_scripts_and_flags_that_exist(root, page):
    for script, *words in commands((root / page).read_text(encoding="utf-8")):
        assert (root / script).is_file(), script
        flags = {word.strip("[]").removeprefix("--") for word in words if word.startswith("--")}
        known = {field.name for field in flags_of(sections_of(script))} if flags else flags
        assert flags <= known, (script, flags - known)


def test_both_readmes_have_the_same_commands(root):
    english, chinese = (commands((root / name).read_text(encoding="utf-8")) for name in ("README.md", "README_ZH.md"))
    assert english == chinese and len(english) >= 15


@pytest.mark.parametrize("page", PAGES)
def test_what_pages_link_and_name_exists(root, page):
    text, folder = (root / page).read_text(encoding="utf-8"), (root / page).parent
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (folder / link).exists(), link
    for path in re.findall(r"`((?:uer|tests|scripts|finetune|inference)/[\w/]+\.(?:py|sh))`", text):
        assert (root / path).is_file(), path


def test_the_code_about_extending_is_the_repositorys(root):
    page = (root / "docs/extending.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for folder in ("tests/contract", "uer/convert/architectures")
               for path in sorted((root / folder).glob("*.py"))]
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 5
    for block in blocks:
        assert any(block in source for source in sources), block


def test_the_python_of_the_readme_runs(folder, root):
    block = re.search(r"^```python\n(.*?)^```", (root / "README.md").read_text(encoding="utf-8"),
                      re.MULTILINE | re.DOTALL)[1].replace("my_model", "chinese_roberta_L-2_H-128")
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)
    assert names["vectors"].shape == (2, CONFIG.hidden_size) and len(names["words"]) == 3


def test_the_page_of_scripts_has_every_script(root):
    page = (root / "docs/scripts.md").read_text(encoding="utf-8")
    named = set()
    for pattern in re.findall(r"scripts/([\w{},]+)\.py", page):  # convert_{bert,albert}_x stands for two
        parts = [part.strip("{}").split(",") for part in re.split(r"(\{.*?\})", pattern)]
        named |= {"".join(choice) for choice in product(*parts)}
    named |= {re.sub("from_uer_to_huggingface", "from_huggingface_to_uer", name) for name in named}  # "the ways back"
    named |= {re.sub("from_original_tf_to_uer", "from_uer_to_original_tf", name) for name in named}
    scripts = {path.stem for path in (root / "scripts").glob("[!_]*.py")}
    assert named >= scripts, scripts - named


def test_the_examples_in_docstrings_are_right(root, monkeypatch):
    monkeypatch.syspath_prepend(str(root / "scripts"))
    attempted = 0
    for path in (*sorted((root / "uer").rglob("*.py")), *sorted((root / "scripts").glob("*.py"))):
        if ">>>" in path.read_text(encoding="utf-8"):
            name = path.relative_to(root).with_suffix("")
            module = importlib.import_module(name.stem if name.parts[0] == "scripts" else ".".join(name.parts))
            found = doctest.testmod(module, extraglobs={"np": np, "torch": torch})
            assert not found.failed, path
            attempted += found.attempted
    assert attempted >= 80
