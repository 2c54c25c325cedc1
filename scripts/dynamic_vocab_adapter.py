"""Fit a checkpoint to another vocabulary: each entry that both vocabularies have keeps its row.

New entries get rows that are drawn from N(0, 0.02), as UER-py starts weights; entries that the new vocabulary lacks
lose theirs. To add entries alone, scripts/extend_vocab.py starts from better rows.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import torch
from extend_vocab import vocab_rows
from torch import Tensor

from uer import cli
from uer.checkpoint.files import save_weights
from uer.config import REQUIRED, flag
from uer.convert.open import load_uer_weights
from uer.errors import UserError
from uer.tokenizers import Vocab
from uer.tokenizers.fetch import ensure_vocab
from uer.tokenizers.vocab import read_any_entries

DEVIATION = 0.02


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    old_model_path: str = flag(REQUIRED, "The checkpoint.", path="read")
    old_vocab_path: str = flag(REQUIRED, "Its vocabulary.", path="read")
    new_vocab_path: str = flag(REQUIRED, "The other vocabulary.", path="read")
    new_model_path: str = flag(REQUIRED, "Where the fitted checkpoint is written.", path="write")
    seed: int = flag(7, "Seed of the new rows.")


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    old, new = (Vocab(read_any_entries(ensure_vocab(path)), source=path, defaults={})  # no entry needs a role here
                for path in (flags.old_vocab_path, flags.new_vocab_path))
    weights = load_uer_weights(flags.old_model_path)
    names = vocab_rows(weights, flags.old_model_path)
    for name in names:
        if len(weights[name]) != len(old):
            raise UserError(f"{flags.old_model_path}: {name} has {len(weights[name])} rows, --old_vocab_path "
                            f"{len(old)} entries")
    sources = torch.tensor([old.ids.get(entry, -1) for entry in new.tokens])
    draw = torch.Generator().manual_seed(flags.seed)
    fitted: dict[int, Tensor] = {}  # data pointer -> new tensor, so that tied parameters stay tied
    for name in names:
        memory = weights[name].data_ptr()
        if memory not in fitted:
            fitted[memory] = rows_from(weights[name], sources, draw)
    save_weights({name: fitted[tensor.data_ptr()] if name in names else tensor for name, tensor in weights.items()},
                 flags.new_model_path)
    kept = int((sources >= 0).sum())
    print(f"{flags.new_model_path}: {len(new):,} rows in {', '.join(names)}: {kept:,} kept, {len(new) - kept:,} new; "
          f"{len(old) - kept:,} of the old ones are left out")


def rows_from(rows: Tensor, sources: Tensor, draw: torch.Generator) -> Tensor:
    """Rows picked by their numbers; where the number is -1, a row drawn from N(0, 0.02).

    With rows [[1.], [2.]] and sources [1, -1, 0]: [[2.], [0.013], [1.]].

    Args:
        rows: (V, ...).
        sources: (W,) int64.

    Returns:
        (W, ...), in the type of `rows`.
    """
    new = torch.empty(len(sources), *rows.shape[1:], dtype=rows.dtype).normal_(0, DEVIATION, generator=draw)
    known = sources >= 0
    new[known] = rows[sources[known]]
    return new


if __name__ == "__main__":
    cli.run(main)
