"""A corpus divided by the text of its documents."""

import gzip

import pytest

from uer.errors import UserError


@pytest.mark.parametrize(("kind", "end"), [("lines", "\n"), ("paragraphs", "\nsecond line\n\n")])
def test_every_document_is_on_one_side(tmp_path, run_script, kind, end):
    texts = [f"document {number % 900}{end}" for number in range(1000)]
    corpus, train, heldout = (tmp_path / name for name in ("corpus.txt", "train.txt", "heldout.txt"))
    corpus.write_text("\n".join(texts) if kind == "lines" else "".join(texts))
    printed = run_script("split_corpus.py", "--corpus_path", corpus, "--train_path", train, "--heldout_path", heldout,
                         "--fraction", 0.2, "--documents", kind)
    parts = [path.read_text().split(end)[:-1] for path in (train, heldout)]
    assert sorted(parts[0] + parts[1]) == sorted(text.removesuffix(end) for text in texts)
    assert not set(parts[0]) & set(parts[1]) and 130 < len(parts[1]) < 270
    assert all(f"{path}: {len(part)} documents, " in printed for path, part in zip((train, heldout), parts))


@pytest.mark.parametrize("kind", ["lines", "paragraphs"])
def test_blank_lines_are_those_of_preprocess_and_a_byte_order_mark_is_no_text(kind, tmp_path, run_script):
    texts = [f"第{number}句" for number in range(20)]
    corpus, train, heldout = (tmp_path / name for name in ("corpus.txt", "train.txt", "heldout.txt"))
    corpus.write_text("\u3000\u3000\n".join(f"{text}\n" for text in texts), encoding="utf-8-sig")
    run_script("split_corpus.py", "--corpus_path", corpus, "--train_path", train, "--heldout_path", heldout,
               "--fraction", 0.3, "--documents", kind)
    parts = [path.read_text(encoding="utf-8").split() for path in (train, heldout)]
    assert sorted(parts[0] + parts[1]) == sorted(texts) and all(parts)
    end = {"lines": "\n", "paragraphs": "\n\n"}[kind]
    assert train.read_text(encoding="utf-8") == "".join(text + end for text in parts[0])


def test_an_empty_part_is_refused(tmp_path, run_script):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("one\n")
    with pytest.raises(UserError, match="would be empty"):
        run_script("split_corpus.py", "--corpus_path", corpus, "--train_path", tmp_path / "a", "--heldout_path",
                   tmp_path / "b")


def test_a_negative_seed_is_refused(tmp_path, run_script):
    with pytest.raises(UserError, match="--seed must lie between 0"):
        run_script("split_corpus.py", "--corpus_path", tmp_path, "--train_path", tmp_path / "a", "--heldout_path",
                   tmp_path / "b", "--seed", -1)


def test_a_compressed_corpus_is_divided_as_the_plain_one(tmp_path, run_script):
    text = b"".join(b"document %d%s\n" % (number, b" word" * 200) for number in range(2000))  # several blocks
    (tmp_path / "plain.txt").write_bytes(text)
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(text, 1))
    for name in ("plain.txt", "packed.txt.gz"):
        run_script("split_corpus.py", "--corpus_path", tmp_path / name, "--train_path", tmp_path / f"train_{name[:5]}",
                   "--heldout_path", tmp_path / f"heldout_{name[:5]}")
    for part in ("train", "heldout"):
        assert (tmp_path / f"{part}_plain").read_bytes() == (tmp_path / f"{part}_packe").read_bytes()
    (tmp_path / "cut.txt.gz").write_bytes(gzip.compress(text)[:-100])
    with pytest.raises(UserError, match="damaged gzip data"):
        run_script("split_corpus.py", "--corpus_path", tmp_path / "cut.txt.gz", "--train_path", tmp_path / "a",
                   "--heldout_path", tmp_path / "b")
    with pytest.raises(UserError, match="plain text is written, not gzip data"):
        run_script("split_corpus.py", "--corpus_path", tmp_path / "plain.txt", "--train_path", tmp_path / "a.gz",
                   "--heldout_path", tmp_path / "b")
