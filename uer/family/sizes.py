"""Names of sizes -> architectures: `tiny`, `8/512`, `L-8_H-512`, `all`, or the path of a JSON file."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from uer.config import ModelConfig
from uer.errors import UserError
from uer.family.architectures import ARCHITECTURES

LAYERS = (2, 4, 6, 8, 10, 12)
HIDDEN = (128, 256, 512, 768)
NICKNAMES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768)}
SHAPE = re.compile(r"(?:L-)?(\d+)(?:/|_H-)(\d+)")


@dataclass(frozen=True)
class Size:
    """One model of the family.

    Attributes:
        name: such as `L-8_H-512`; part of its files' names.
        config_path: the JSON file.
        config: the settings in the file.
    """

    name: str
    config_path: str
    config: ModelConfig

    @property
    def label(self) -> str:
        """`medium 8/512`, or `10/512` for a size without a nickname."""
        shape = (self.config.layers_num, self.config.hidden_size)
        nickname = next((name for name, known in NICKNAMES.items() if known == shape), "")
        return f"{nickname} {shape[0]}/{shape[1]}".strip()


def resolve(names: Sequence[str], config_folder: Path, read: Callable[[str], ModelConfig]) -> list[Size]:
    """The sizes with these names, each once, in the order of the names.

    Args:
        names: as on the command line.
        config_folder: the folder of `L-8_H-512_config.json` and the other sizes' files.
        read: reads a JSON file.

    Raises:
        UserError: a name is not a size, or two files would have the same name.
    """
    sizes: dict[str, Size] = {}
    for path in (path for name in names for path in _config_paths(name, config_folder)):
        name = path.name.removesuffix(".json").removesuffix("_config")
        if name in sizes and Path(sizes[name].config_path) != path:
            raise UserError(f"--sizes: {sizes[name].config_path} and {path} would both be called {name}")
        sizes[name] = Size(name, str(path), replace(read(str(path)), target=("mlm",)))  # what the family trains
    return list(sizes.values())


def check_architecture(sizes: Sequence[Size], name: str) -> None:
    """See that all sizes have the architecture of the family.

    Args:
        name: a key of `ARCHITECTURES`.

    Raises:
        UserError: one has not, so that it could not be converted in the end; the message names it.
    """
    for size in sizes:
        if size.config.prediction_head != ARCHITECTURES[name].prediction_head:
            raise UserError(f"--architecture {name}: {size.config_path} is no {ARCHITECTURES[name].title} "
                            f"(prediction_head {size.config.prediction_head})")


def _config_paths(name: str, folder: Path) -> list[Path]:
    if name == "all":
        return [folder / f"L-{layers}_H-{hidden}_config.json" for hidden in HIDDEN for layers in LAYERS]
    if name.endswith(".json"):
        return [Path(name)]
    shape = SHAPE.fullmatch(name)
    layers, hidden = map(int, shape.groups()) if shape else NICKNAMES.get(name, (0, 0))
    path = folder / f"L-{layers}_H-{hidden}_config.json"
    if layers and path.is_file():
        return [path]
    raise UserError(f"--sizes: '{name}' is no size of the family; choose from: all, {', '.join(NICKNAMES)}, 2/128 to "
                    "12/768 (2, 4, 6, 8, 10 or 12 layers; 128, 256, 512 or 768 wide), or the path of a JSON file")
