"""Joining datasets."""

import dataclasses

import numpy as np
import pytest

from tests.contract.test_processors import CASES, CHARACTERS, SENTINELS
from tests.tools.datasets import make_dataset
from uer.data.schema import INSTANCE, Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, open_dataset, save_dataset
from uer.errors import UserError
from uer.tokenizers.char import CharTokenizer
from uer.tokenizers.vocab import Vocab

SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
VOCAB = VocabInfo("ab", 300, SPECIAL, {"kind": "bert"})
INFO = DatasetInfo(FORMAT_VERSION, "mlm", 8, {"src": Column()}, {"src": 8}, {"src": VOCAB}, {"span_masking": False},
                   True, 1, 7, {"documents": 2, "tokens": 5}, "preprocess.py")
WORDS = {"src": Column(), "word_start": Column(dtype="uint8")}


def _save(path, tokens, offsets, columns=None, **changes):
    save_dataset(path, dataclasses.replace(INFO, **changes), {"src": np.array(tokens), **(columns or {})},
                 {"src": np.array(offsets)})
    return path


def test_instances_follow_one_another(run_script, tmp_path):
    word_start = np.array([1, 0, 1, 1, 0], np.uint8)
    first = _save(tmp_path / "a.pt", [1, 2, 3, 4, 5], [0, 2, 5], {"word_start": word_start}, schema=WORDS)
    second = _save(tmp_path / "b.pt", [6, 7], [0, 2], {"word_start": word_start[:2]}, schema=WORDS,
                   counts={"documents": 1, "tokens": 2})
    text = run_script("merge_datasets.py", first, second, first, "--output_path", tmp_path / "c.pt")
    merged = open_dataset(tmp_path / "c.pt")
    assert [merged[i].tolist() for i in range(len(merged))] == [[1, 2], [3, 4, 5], [6, 7], [1, 2], [3, 4, 5]]
    assert merged.columns["word_start"].tolist() == [1, 0, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0]
    assert merged.info.counts == {"documents": 5, "tokens": 12}
    assert "5 instances, 12 tokens" in text


@pytest.mark.parametrize("start", [0, 4, 60_000])
def test_a_damaged_dataset_is_named(start, run_script, tmp_path):
    whole, damaged = (_save(tmp_path / name, [1, 2, 3, 4, 5], [0, 2, 5]) for name in ("a.pt", "b.pt"))
    content = bytearray(damaged.read_bytes())
    content[-6:-2] = np.array([0, start], "<u2").tobytes()  # the column src.starts is the last one, 0 2 5
    damaged.write_bytes(content[:-2] + np.array([5], "<u2").tobytes())
    for command in (("merge_datasets.py", whole, damaged, "--output_path", tmp_path / "c.pt"),
                    ("inspect_dataset.py", damaged)):
        if start == 4:
            run_script(*command)
            continue
        with pytest.raises(UserError, match=r"b.pt: the dataset is damaged: an instance begins or ends"):
            run_script(*command)
    assert (tmp_path / "c.pt").exists() == (start == 4)


def test_the_part_that_holds_an_id_beyond_the_vocabulary_is_named(run_script, tmp_path):
    """In the joined dataset nobody could tell any more which part has to be made anew."""
    good, bad = _save(tmp_path / "a.pt", [1, 299, 0], [0, 3]), _save(tmp_path / "b.pt", [1, 300, 0], [0, 3])
    run_script("merge_datasets.py", good, good, "--output_path", tmp_path / "c.pt")
    with pytest.raises(UserError, match=r"b.pt: the dataset is damaged: token id 300 in a vocabulary of 300 entries"):
        run_script("merge_datasets.py", good, bad, "--output_path", tmp_path / "d.pt")
    assert not (tmp_path / "d.pt").exists()


def _vocab(**changes):
    return {"vocabs": {"src": dataclasses.replace(VOCAB, **changes)}}


@pytest.mark.parametrize("changes, name", [
    ({"seq_length": 16}, "seq_length"), ({"lengths": {"src": 9}}, "lengths"), ({"processor": "bert"}, "processor"),
    ({"seed": 8}, "seed"), ({"dup_factor": 5}, "dup_factor"), ({"dynamic_masking": False}, "dynamic_masking"),
    ({"processor_settings": {"span_masking": True}}, "span_masking"),
    ({"processor_settings": {"span_masking": False, "short_seq_prob": 0.1}}, "short_seq_prob"),
    (_vocab(fingerprint="cd"), "src vocabulary fingerprint"), (_vocab(size=301), "src vocabulary size"),
    (_vocab(tokenizer={"kind": "char"}), "src vocabulary tokenizer"),
    (_vocab(special_ids={**SPECIAL, "pad": 9}), "src vocabulary special_ids")])
def test_other_settings_are_refused_by_name(changes, name, run_script, tmp_path):
    first = _save(tmp_path / "a.pt", [1], [0, 1])
    second = _save(tmp_path / "b.pt", [1], [0, 1], **changes)
    with pytest.raises(UserError, match=rf"b.pt: its {name} is .*, that of .*a.pt is"):
        run_script("merge_datasets.py", "--dataset_path", first, second, "--output_path", tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()


def test_other_columns_and_a_single_dataset_are_refused(run_script, tmp_path):
    first = _save(tmp_path / "a.pt", [1], [0, 1])
    second = _save(tmp_path / "b.pt", [1], [0, 1], {"word_start": np.ones(1, np.uint8)}, schema=WORDS)
    message = r"its columns are src \(ids\), word_start \(uint8\), those of .*a.pt are src \(ids\)$"
    with pytest.raises(UserError, match=message):
        run_script("merge_datasets.py", first, second, "--output_path", tmp_path / "c.pt")
    other = {"src": Column(), "word_start": Column(INSTANCE, "uint8")}  # the same name and length, another meaning
    third = _save(tmp_path / "d.pt", [1], [0, 1], {"word_start": np.ones(1, np.uint8)}, schema=other)
    with pytest.raises(UserError, match=r"its columns are src \(ids\), word_start \(uint8, instance\), those of"):
        run_script("merge_datasets.py", second, third, "--output_path", tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()
    with pytest.raises(UserError, match="two datasets or more"):
        run_script("merge_datasets.py", first, "--output_path", tmp_path / "c.pt")


def test_two_sequences_and_columns_of_instances_are_joined(run_script, tmp_path):
    schema = {"src": Column(), "tgt": Column("tgt", vocab="tgt"), "mark": Column("tgt", "uint8"),
              "label": Column(INSTANCE, "uint16")}
    info = dataclasses.replace(INFO, schema=schema, lengths={"src": 8, "tgt": 4},
                               vocabs={"src": VOCAB, "tgt": dataclasses.replace(VOCAB, size=70000)})
    paths = [tmp_path / "a.pt", tmp_path / "b.pt"]
    save_dataset(paths[0], info, {"src": np.arange(5), "tgt": 65_537 + np.arange(3), "mark": np.arange(3),
                                  "label": np.array([9, 8])}, {"src": np.array([0, 2, 5]), "tgt": np.array([0, 1, 3])})
    save_dataset(paths[1], info, {"src": np.arange(2), "tgt": np.array([7]), "mark": np.array([5]),
                                  "label": np.array([300])}, {"src": np.array([0, 2]), "tgt": np.array([0, 1])})
    text = run_script("merge_datasets.py", *paths, "--output_path", tmp_path / "c.pt")
    merged = open_dataset(tmp_path / "c.pt")
    assert [merged[i].tolist() for i in range(3)] == [[0, 1], [2, 3, 4], [0, 1]]
    assert [merged.sequence(i, "tgt").tolist() for i in range(3)] == [[65_537], [65_538, 65_539], [7]]
    assert merged.columns["label"].tolist() == [9, 8, 300] and merged.columns["mark"].tolist() == [0, 1, 2, 5]
    assert merged.info.schema == schema and "3 instances, 11 tokens" in text


@pytest.mark.parametrize("name", CASES)
def test_datasets_of_every_processor_are_joined(name, run_script, tmp_path):
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS, *SENTINELS]
    tokenizer, datasets = CharTokenizer(Vocab(entries)), []
    for count in (20, 30):
        (tmp_path / "corpus.txt").write_text(CASES[name][0](count), encoding="utf-8")
        datasets.append(make_dataset(tmp_path / f"{count}.pt", tmp_path / "corpus.txt", name, tokenizer, seq_length=13))
    run_script("merge_datasets.py", *(part.path for part in datasets), "--output_path", tmp_path / "c.pt")
    merged = open_dataset(tmp_path / "c.pt")
    for axis in merged.offsets:
        assert [merged.sequence(number, axis).tolist() for number in range(len(merged))] == [
            part.sequence(number, axis).tolist() for part in datasets for number in range(len(part))]
    for column, values in merged.columns.items():
        assert np.array_equal(values, np.concatenate([part.columns[column] for part in datasets]))
    assert merged.info.counts["instances"] == len(merged) == sum(map(len, datasets))
