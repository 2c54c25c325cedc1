"""Names of sizes -> architectures: `tiny`, `8/512`, `L-8_H-512`, `all`, or the path of a JSON file of one's own."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from uer.config import ModelConfig
from uer.errors import UserError

LAYERS = (2, 4, 6, 8, 10, 12)
HIDDEN = (128, 256, 512, 768)
NICKNAMES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768)}
SHAPE = re.compile(r"(?:L-)?(\d+)(?:/|_H-)(\d+)")


@dataclass(frozen=True)
class Size:
    """One model of the family.

    Attributes:
        name: `L-8_H-512`; names its files.
        config_path: its JSON file.
        config: what the file says.
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
    """The sizes that are asked for, each once, in the order they are named.

    Args:
        names: as on the command line.
        config_folder: where `L-8_H-512_config.json` and its kin lie.
        read: reads a JSON file.

    Raises:
        UserError: a name that is no size, or two files of one name.
    """
    sizes: dict[str, Size] = {}
    for path in (path for name in names for path in _config_paths(name, config_folder)):
        name = path.name.removesuffix(".json").removesuffix("_config")
        if name in sizes and Path(sizes[name].config_path) != path:
            raise UserError(f"--sizes: {sizes[name].config_path} and {path} would both be called {name}")
        sizes[name] = Size(name, str(path), read(str(path)))
    return list(sizes.values())


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
