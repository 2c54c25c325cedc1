"""Sending the folder of an export to the Hugging Face hub. Not a command.

Who may write there, huggingface_hub finds out itself (HF_TOKEN, or what `hf auth login` has kept); no token is read,
kept or printed here.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uer.errors import UserError

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
TOKEN = re.compile(r"\bhf_\w+")


def problems(flags: Any) -> list[str]:
    """What is wrong with --push_to_hub, --private and --push_dry_run of an export, one line each."""
    name, found = flags.push_to_hub, []
    if name and not NAME.fullmatch(name):
        found.append(f"--push_to_hub {name}: a name is needed such as user/model")
    if name and not flags.output_dir:
        found.append("--push_to_hub sends a folder: --output_dir is needed")
    return found + [f"--{other} is for --push_to_hub" for other in ("private", "push_dry_run")
                    if getattr(flags, other) and not name]


def require_hub() -> Any:
    """The class `HfApi`. To be called before transformers is imported, which is told to stay offline.

    Raises:
        UserError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        raise UserError(f"--push_to_hub needs huggingface_hub ({error}): pip install huggingface_hub") from None
    return HfApi


def push(folder: str, files: Sequence[str], name: str, private: bool, dry_run: bool) -> None:
    """Send these files of a folder to the model `name`, which is made where there is none; or only list them.

    Args:
        folder: where they lie.
        files: their paths in the folder. Others that lie there are not sent.
        name: such as "user/model".
        private: make a private model; an existing one that is public is an error.
        dry_run: send nothing.

    Raises:
        UserError: it failed; the folder stays as it is.
    """
    if dry_run:
        _list(folder, files, name, private)
        return
    try:
        url = _send(require_hub()(), folder, files, name, private)
    except UserError:
        raise
    except Exception as error:  # of HTTP, of the file system, of huggingface_hub: each has classes of its own
        reason = " ".join(TOKEN.sub("hf_...", str(error)).split())[:300] or type(error).__name__
        raise UserError(f"--push_to_hub {name} failed: {reason}; {folder} is complete and stays") from None
    print(f"sent: {len(files)} files to {url}")


def _send(api: Any, folder: str, files: Sequence[str], name: str, private: bool) -> Any:
    url = api.create_repo(name, private=private, exist_ok=True, repo_type="model")
    if private and not api.model_info(name).private:
        raise UserError(f"--push_to_hub {name}: this model exists and is public, but --private is given; nothing was "
                        f"sent, and {folder} stays")
    api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=list(files), repo_type="model",
                      commit_message="Upload the model")
    return url


def _list(folder: str, files: Sequence[str], name: str, private: bool) -> None:
    sizes = {file: (Path(folder) / file).stat().st_size for file in files}
    kind = "private" if private else "public"
    print(f"nothing is sent; to {name} ({kind}, where it is new) would go {sum(sizes.values()):,} bytes:")
    for file, size in sizes.items():
        print(f"{size:>15,}  {file}")
