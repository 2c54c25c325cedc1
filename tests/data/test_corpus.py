"""Finding files, reading them compressed or plain, and dividing them at line ends."""

import bz2
import gzip
import lzma
import os
import random
import sys

import pytest

from uer.data import corpus
from uer.data.corpus import find_files, open_text, read_blocks, stretch, take_sample, unchanged
from uer.data.schema import SENTENCES
from uer.errors import UserError

TEXT = "".join(f"第{number}行 line {number}\n" for number in range(3000)).encode()


def test_paths_globs_and_folders_in_sorted_order(tmp_path):
    for name in ("b.txt", "a.txt", "deep/c.txt", ".hidden/d.txt", ".e.txt", "empty.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if name == "empty.txt" else "x\n")
    names = [os.path.relpath(file.path, tmp_path) for file in find_files([str(tmp_path)])]
    assert names == ["a.txt", "b.txt", "deep/c.txt"]
    names = [os.path.basename(file.path) for file in find_files([str(tmp_path / "b.txt"), str(tmp_path / "*.txt")])]
    assert names == ["b.txt", "a.txt", "b.txt"]


def test_linked_folders_are_read_once(tmp_path):
    for folder in ("corpus", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("x\n")
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "circle").symlink_to(tmp_path / "corpus")
    names = [os.path.relpath(file.path, tmp_path) for file in find_files([str(tmp_path / "corpus") + "/"])]
    assert names == ["corpus/a.txt", "corpus/linked/a.txt"]


def test_a_name_with_glob_characters_is_taken_as_it_is(tmp_path):
    (tmp_path / "a[1].txt").write_text("x\n")
    assert len(find_files([str(tmp_path / "a[1].txt")])) == 1


@pytest.mark.parametrize(("name", "content", "message"), [
    ("none.txt", None, "No such file"), ("*.none", None, "no file matches"), ("empty.txt", b"", "empty"),
    ("utf16.txt", "北京\n".encode("utf-16"), "UTF-16"), ("x.zip", b"PK\x03\x04.", "an archive of files; unpack it"),
    ("x.y.tar.gz", gzip.compress(b"x", mtime=0), "an archive"), ("x.TGZ", gzip.compress(b"x", mtime=0), "an archive"),
])
def test_what_is_no_corpus_is_named(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        find_files([str(tmp_path / name)])
    assert str(tmp_path / name) in str(caught.value)


def test_an_empty_folder_and_a_pipe_are_named(tmp_path):
    with pytest.raises(UserError, match="holds no files"):
        find_files([str(tmp_path)])
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        find_files([str(tmp_path / "pipe")])


@pytest.mark.parametrize(("compress", "kind"), [
    (lambda data: data, ""), (gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz"),
    (lambda data: gzip.compress(data[:777]) + gzip.compress(data[777:]), "gzip"),
])
def test_compression_is_known_by_content(compress, kind, tmp_path):
    (tmp_path / "text").write_bytes(compress(TEXT))
    (file,) = find_files([str(tmp_path / "text")])
    assert file.compression == kind
    assert b"".join(block for block, _ in read_blocks(file)) == TEXT


@pytest.mark.parametrize("name, content, kind", [
    ("text.gz", b"\x1f\x00 a damaged beginning", "gzip data, but it is something else"),
    ("text.XZ", gzip.compress(TEXT, mtime=0), "xz data, but it is gzip")])
def test_a_name_that_promises_another_compression(name, content, kind, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: named as {kind}"):
        find_files([str(tmp_path / name)])


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_damaged_compressed_data_is_named(compress, tmp_path):
    whole = compress(TEXT)
    for damaged in (whole[:-20], whole[:60] + b"\xff" * 40 + whole[100:]):
        (tmp_path / "text").write_bytes(damaged)
        (file,) = find_files([str(tmp_path / "text")])
        with pytest.raises(UserError, match=r"text: damaged .* data"):
            list(read_blocks(file))


def test_zstd_is_read_or_the_missing_package_is_named(tmp_path):
    (tmp_path / "text.zst").write_bytes(b"\x28\xb5\x2f\xfd\x04\x00\x19\x00\x00\x61\x62\x0a\x8d\x9d\x16\x7b")
    (file,) = find_files([str(tmp_path / "text.zst")])
    try:
        stream, raw = open_text(file)
    except UserError as error:
        assert "pip install backports.zstd" in str(error)
    else:
        stream.close()
        raw.close()


def test_zstd_frames_and_their_damage(tmp_path):
    zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    frames = TEXT[:999], b"", TEXT[999:]
    (tmp_path / "text").write_bytes(b"".join(map(zstd.compress, frames)))
    (file,) = find_files([str(tmp_path / "text")])
    assert b"".join(block for block, _ in read_blocks(file)) == TEXT
    for damaged in (zstd.compress(TEXT)[:-20], zstd.compress(TEXT) + b"garbage"):
        (tmp_path / "text").write_bytes(damaged)
        with pytest.raises(UserError, match=r"text: damaged zstd data"):
            list(read_blocks(find_files([str(tmp_path / "text")])[0]))


def test_every_line_belongs_to_one_stretch(tmp_path, monkeypatch):
    chance = random.Random(5)
    path = tmp_path / "text"
    for _ in range(60):
        monkeypatch.setattr(corpus, "READ_BYTES", chance.choice([1, 2, 7, 1000]))
        lines = [b"x" * chance.choice([0, 0, 1, 2, 5, 40]) + b"\n" for _ in range(chance.randrange(1, 30))]
        whole = b"".join(lines)
        if chance.random() < 0.5:
            whole = whole.removesuffix(b"\n") or b"x"
        path.write_bytes(whole)
        size = chance.choice([1, 2, 3, 10, 64])
        parts = [b"".join(stretch(path, start, min(start + size, len(whole)))) for start in range(0, len(whole), size)]
        assert b"".join(parts) == whole
        for start, part in zip(range(0, len(whole), size), parts):
            if part:
                begin = len(b"".join(parts[:start // size]))
                assert start <= begin < start + size
                assert begin == 0 or whole[begin - 1:begin] == b"\n"


def test_a_file_that_changes_is_noticed(tmp_path):
    (tmp_path / "text").write_bytes(TEXT)
    (file,) = find_files([str(tmp_path / "text")])
    assert unchanged(file)
    (tmp_path / "text").write_bytes(TEXT + b"x")
    assert not unchanged(file)
    (tmp_path / "text").unlink()
    assert not unchanged(file)


def test_a_sample_is_whole_lines_and_knows_how_much_text_a_file_holds(tmp_path):
    (tmp_path / "text").write_bytes(TEXT)
    (tmp_path / "text.gz").write_bytes(gzip.compress(TEXT))
    plain = take_sample(find_files([str(tmp_path / "text")]), 2000)
    assert plain.expansion == 1 and set(plain.text.split(b"\n")) <= set(TEXT.split(b"\n"))
    packed = take_sample(find_files([str(tmp_path / "text.gz")]), 1 << 20)
    assert packed.text == TEXT and packed.expansion == pytest.approx(len(TEXT) / len(gzip.compress(TEXT)), rel=0.01)


@pytest.mark.parametrize("blank", [b"\n", b" \r\n" * 3, b"\xe3\x80\x80" * 1400 + b"\n"])
def test_stretches_cover_each_document_once(blank, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "READ_BYTES", 1000)
    chance = random.Random(3)
    text = b"".join(b"a" * chance.randrange(1, 300) + b"\n" + blank * chance.randrange(3) for _ in range(20))
    (tmp_path / "a.txt").write_bytes(text)
    for size in (300, 2000):
        parts = [b"".join(stretch(tmp_path / "a.txt", start, min(start + size, len(text)), SENTENCES.document_end))
                 for start in range(0, len(text), size)]
        assert b"".join(parts) == text
