"""Which part of the repository may import which other part, and habits that no file may have: reads the sources."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("uer", "scripts", "finetune", "inference", "corpora")
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")) + sorted(ROOT.glob("*.py"))

MODELS = ("uer.layers", "uer.embeddings", "uer.encoders", "uer.decoders", "uer.targets", "uer.backbone", "uer.model")
BASICS = ("uer.config", "uer.errors", "uer.registry")
TRAINING = ("uer.training", "uer.optim", "uer.finetuning")
# These put a run together from the parts; no part imports them.
WIRING = tuple(f"uer.training.{name}" for name in (
    "run", "dry_run", "new_model", "pretrained", "inputs", "loaders", "run_problems"))

# A part may import these of `uer`, and itself.
ALLOWED = {"uer.layers": (), **{f"uer.{family}": ("uer.layers", *BASICS)
                                for family in ("embeddings", "encoders", "decoders", "targets")}}
# A part must not import these.
FORBIDDEN = {
    "uer.data": (*MODELS, *TRAINING, "uer.convert"),
    "uer.tokenizers": (*MODELS, *TRAINING, "uer.convert", "uer.data", "torch"),
    "uer.training": ("uer.embeddings", "uer.encoders", "uer.decoders", "uer.targets", "uer.layers", "uer.backbone",
                     "uer.model", "uer.data.processors", *WIRING),
    "uer.runtime": (*MODELS, *TRAINING, "uer.data", "uer.convert", "uer.checkpoint", "uer.tokenizers"),
    "uer.checkpoint": (*MODELS, *TRAINING, "uer.data", "uer.convert", "uer.tokenizers"),
    "uer.convert": (*MODELS, *TRAINING),
    "uer": ("transformers",),
}


def module_name(path: Path) -> str:
    """uer/layers/norm.py -> uer.layers.norm"""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_part(name: str, part: str) -> bool:
    return name == part or name.startswith(part + ".")


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def _nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(_tree(path)))


@cache
def imports(path: Path, top_level_only: bool = False) -> list[tuple[str, str]]:
    """(module, name) of each import; name is "" where the module itself is imported."""
    found = []
    nodes = _import_time_nodes(_tree(path)) if top_level_only else _nodes(path)
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += [(module, alias.name) for alias in node.names]
    return found


def _import_time_nodes(tree: ast.AST):
    """Nodes that run when the module is imported: functions' bodies do not, nor what only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from _import_time_nodes(node)


def imported_modules(path: Path, top_level_only: bool = False) -> set[str]:
    """Full names: `from uer.layers import norm` gives uer.layers.norm as well as uer.layers."""
    names = set()
    for module, name in imports(path, top_level_only):
        names |= {module, f"{module}.{name}"} if name else {module}
    return names


def ours(parts: tuple[str, ...]) -> list[Path]:
    return [path for path in SOURCES if any(is_part(module_name(path), part) for part in parts)]


def test_there_are_files_to_check():
    assert len(ours(("uer.layers",))) > 5


def test_every_part_imports_only_what_it_may():
    bad = []
    for path in ours(tuple(ALLOWED)):
        name = module_name(path)
        part = next(part for part in ALLOWED if is_part(name, part))
        bad += [f"{name} imports {imported}" for imported in imported_modules(path) if is_part(imported, "uer")
                and not any(is_part(imported, allowed) for allowed in (part, *ALLOWED[part]))]
    assert not bad


def test_no_part_imports_what_it_must_not():
    bad = []
    for path in ours(tuple(FORBIDDEN)):
        name = module_name(path)
        if name in WIRING:
            continue
        forbidden = [other for part, others in FORBIDDEN.items() if is_part(name, part) for other in others]
        bad += [f"{name} imports {imported}" for imported in imported_modules(path)
                if any(is_part(imported, other) for other in forbidden)]
    assert not bad


def test_habits_of_every_file():
    bad = [f"{path.relative_to(ROOT)}: {habit}" for path in SOURCES for habit in bad_habits(path)]
    assert not bad


def bad_habits(path: Path) -> list[str]:
    """What this file does although no file may do it, or only one other."""
    name, modules = module_name(path), imported_modules(path)
    distributed = any(is_part(module, "torch.distributed") for module in modules) or any(
        isinstance(node, ast.Attribute) and node.attr == "distributed" and ast.unparse(node) == "torch.distributed"
        for node in _nodes(path))
    checks = {
        "a relative import hides what is imported": any(module.startswith(".") for module, _ in imports(path)),
        "a star import": any(imported == "*" for _, imported in imports(path)),
        "only uer/cli.py reads arguments":
            name != "uer.cli" and any(is_part(module, "argparse") for module in modules),
        "only uer/runtime uses torch.distributed": not is_part(name, "uer.runtime") and distributed}
    return [habit for habit, found in checks.items() if found]


def test_no_circular_imports():
    """Of what runs at import time. A package stands for its __init__.py."""
    paths = {module_name(path): path for path in ours(("uer",))}
    graph = {name: {other for other in imported_modules(path, top_level_only=True) if other in paths and other != name}
             for name, path in paths.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name):], name))
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in sorted(graph):
        visit(name, ())


def test_importing_reads_no_file_prints_nothing_and_stays_light(server):
    """`uer.tokenizers` imports no torch, and no module imports torch's compiler, which takes seconds."""
    assert server.ask({"imports": True}) == {"opened": [], "written": [], "printed": "", "heavy": []}
