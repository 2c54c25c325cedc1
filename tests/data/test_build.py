"""Corpus to dataset: the same bytes however it is made, whatever the files are; real corpora."""

import bz2
import gzip
import json
import lzma
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.data.conftest import SHARD_BYTES, make, random_text
from uer.data import build, shards
from uer.data.store import open_dataset
from uer.errors import UserError
from uer.tokenizers import BertTokenizer, Vocab


@pytest.mark.parametrize("full_sentences", [False, True])
def test_the_same_bytes_for_any_number_of_processes_and_any_shards(full_sentences, corpus, tmp_path, small_tokenizer):
    made = []
    for processes, shard_bytes in [(1, SHARD_BYTES), (2, SHARD_BYTES), (3, SHARD_BYTES), (2, 400), (1, 1 << 20)]:
        make(tmp_path, small_tokenizer, corpus, processes_num=processes, shard_bytes=shard_bytes,
             full_sentences=full_sentences)
        made.append((tmp_path / "d.pt").read_bytes())
    assert len(set(made)) == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corpus.txt", "d.pt"]


def test_instances_are_the_documents_cut(corpus, tmp_path, small_tokenizer):
    summary = make(tmp_path, small_tokenizer, corpus)
    expected = []
    blank = 0
    for line in corpus.read_text(encoding="utf-8").split("\n")[:-1]:
        ids = small_tokenizer.encode(line)
        blank += not ids
        framed = [2, *ids, 3] if ids else []
        expected += [framed[start:start + 16] for start in range(0, len(framed), 16)]
    dataset = open_dataset(tmp_path / "d.pt")
    assert [dataset[i].tolist() for i in range(len(dataset))] == expected
    assert dataset.info.counts == summary.counts()
    assert summary.totals.blank_lines == blank and summary.totals.lines == 160
    assert summary.totals.full_instances == sum(len(instance) == 16 for instance in expected)
    assert summary.totals.unknown_tokens == sum(instance.count(1) for instance in expected)


def test_joined_documents_leave_only_the_last_instance_short(corpus, tmp_path, small_tokenizer):
    summary = make(tmp_path, small_tokenizer, corpus, full_sentences=True)
    lengths = np.diff(open_dataset(tmp_path / "d.pt").offsets["src"])
    assert (lengths[:-1] == 16).all() and 0 < lengths[-1] <= 16
    assert summary.totals.instances == len(lengths)
    assert summary.totals.full_instances == (lengths == 16).sum()


@pytest.mark.parametrize(("seq_length", "instances", "full"), [(128, 6616, 4123), (512, 3138, None)])
def test_a_real_corpus_gives_the_originals_figures(seq_length, instances, full, tmp_path, shared_data, golden,
                                                   google_vocab):
    corpus = shared_data / "corpora" / "CLUECorpusSmall_sampled.txt"
    tokenizer = BertTokenizer(Vocab.load(google_vocab))
    summary = make(tmp_path, tokenizer, corpus, seq_length=seq_length, shard_bytes=None, processes_num=2)
    assert (summary.totals.instances, summary.totals.tokens) == (instances, 663_005)
    assert full is None or summary.totals.full_instances == full
    tokens = open_dataset(tmp_path / "d.pt").tokens
    ids = np.load(golden / "token_ids_CLUECorpusSmall_sampled.npz")["ids"]
    assert np.array_equal(tokens[(tokens != 101) & (tokens != 102)], ids[(ids != 101) & (ids != 102)])


def test_static_masking_stores_nothing_more_than_its_settings(corpus, tmp_path, small_tokenizer):
    make(tmp_path, small_tokenizer, corpus, dup_factor=5, seed=3, name="static.pt")
    make(tmp_path, small_tokenizer, corpus, dynamic_masking=True, name="dynamic.pt")
    static, dynamic = (open_dataset(tmp_path / name) for name in ("static.pt", "dynamic.pt"))
    assert (static.info.dup_factor, static.info.seed, static.info.dynamic_masking) == (5, 3, False)
    assert (dynamic.info.dup_factor, dynamic.info.dynamic_masking) == (1, True)
    assert np.array_equal(static.tokens, dynamic.tokens)


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_files_give_the_plain_files_columns(compress, processes, corpus, tmp_path, small_tokenizer):
    make(tmp_path, small_tokenizer, corpus)
    packed = tmp_path / "corpus.packed"
    packed.write_bytes(compress(corpus.read_bytes()))
    make(tmp_path, small_tokenizer, packed, processes_num=processes, name="packed.pt")
    plain, unpacked = (open_dataset(tmp_path / name) for name in ("d.pt", "packed.pt"))
    assert np.array_equal(plain.tokens, unpacked.tokens)
    assert np.array_equal(plain.offsets["src"], unpacked.offsets["src"])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["corpus.packed", "corpus.txt", "d.pt", "packed.pt"]


def test_several_files_are_joined_in_order_and_damage_is_located_in_each(tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\r\n\r\n" + b"b\n" * 50 + b"c\xff")
    (tmp_path / "b.txt").write_bytes(b"d\n\xfe\ne\n")
    summary = make(tmp_path, small_tokenizer, tmp_path / "a.txt", tmp_path / "b.txt", shard_bytes=10)
    assert [(Path(path).name, line) for path, line, _ in summary.locations] == [("a.txt", 53), ("b.txt", 2)]
    entries = small_tokenizer.vocab.ids
    tokens = open_dataset(tmp_path / "d.pt").tokens
    assert tokens[tokens > 3].tolist() == [entries[char] for char in "a" + "b" * 50 + "cde"]
    assert (summary.totals.documents, summary.totals.blank_lines, summary.totals.damaged_lines) == (54, 2, 2)


def test_many_small_files_share_a_shard_and_give_what_one_file_gives(tmp_path, small_tokenizer, monkeypatch):
    parts = [b"a b\n\xff\n", b"\xef\xbb\xbfc", b"x" * 500 + b"\n", b"d\n\n", b"\0e", b"f\n"]
    for number, part in enumerate(parts):
        (tmp_path / f"{number}.txt").write_bytes(gzip.compress(part) if number == 3 else part)
    seen = []
    real_build = build.build_shard

    def watched(shard, *rest):
        seen.append(str(shard).replace(str(tmp_path), ""))
        return real_build(shard, *rest)

    monkeypatch.setattr(build, "build_shard", watched)
    summary = make(tmp_path, small_tokenizer, tmp_path, shard_bytes=400)
    assert seen == ["/0.txt to /1.txt, 2 files", "/2.txt, bytes 0 to 400", "/2.txt, bytes 400 to 501",
                    "/3.txt, decompressed bytes 0 to 3", "/4.txt to /5.txt, 2 files"]
    assert [(Path(path).name, line) for path, line, _ in summary.locations] == [("0.txt", 2), ("4.txt", 1)]
    tokens = open_dataset(tmp_path / "d.pt").tokens
    assert tokens[tokens > 3].tolist() == [small_tokenizer.vocab.ids[char] for char in "abcdef"]
    assert summary.totals.lines == 8


def test_datasets_in_the_corpus_folder_are_not_read_as_text(tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_text("a\n")
    (tmp_path / "original.pt").write_bytes(pickle.dumps(([4, 5, 6], 3)))
    (tmp_path / "e.pt.work-0123456789abcdef").mkdir()
    (tmp_path / "e.pt.work-0123456789abcdef" / "000000-000000.src").write_bytes(b"abcd")
    make(tmp_path, small_tokenizer, tmp_path)
    first = (tmp_path / "d.pt").read_bytes()
    for corpus, name in ((tmp_path, "d.pt"), (tmp_path, "e.pt"), (tmp_path / "**", "f.pt")):
        make(tmp_path, small_tokenizer, corpus, name=name)
        assert (tmp_path / name).read_bytes() == first
    with pytest.raises(UserError, match=r"d\.pt: a dataset or a model, no text"):
        make(tmp_path, small_tokenizer, tmp_path / "d.pt", name="e.pt")
    (tmp_path / "a.txt").unlink()
    with pytest.raises(UserError, match="holds only datasets"):
        make(tmp_path, small_tokenizer, tmp_path)


def test_json_lines(tmp_path, small_tokenizer):
    records = [{"text": "a b"}, {"other": "c"}, {"text": ""}, {"text": "d\ne"}]
    (tmp_path / "a.json").write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = make(tmp_path, small_tokenizer, tmp_path / "a.json", text_field="text")
    totals = summary.totals
    assert (totals.lines, totals.documents, totals.blank_lines, totals.left_out_lines) == (4, 2, 1, 1)
    assert summary.locations[0][1:] == (2, "no field 'text', left out")


def test_one_long_line_crosses_many_shards(tmp_path, small_tokenizer, monkeypatch):
    monkeypatch.setattr(shards, "LONG_LINE", 2000)
    text = random_text(60).replace("\n", " ")
    (tmp_path / "a.txt").write_text(f"a\n{text}\nb\n", encoding="utf-8")
    summary = make(tmp_path, small_tokenizer, tmp_path / "a.txt", shard_bytes=500)
    assert (summary.totals.documents, summary.totals.lines) == (3, 3)
    tokens = open_dataset(tmp_path / "d.pt").tokens
    assert tokens[tokens > 3].tolist() == [token for token in small_tokenizer.encode(f"a {text} b") if token > 3]
