"""Joining datasets."""

import dataclasses

import numpy as np
import pytest

from uer.data.store import FORMAT_VERSION, DatasetInfo, open_dataset, save_dataset
from uer.errors import UserError

SPECIAL = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
INFO = DatasetInfo(FORMAT_VERSION, "mlm", 8, "ab", 300, {"kind": "bert"}, SPECIAL, True, 1, 7,
                   {"span_masking": False}, {"documents": 2, "tokens": 5}, "preprocess.py")


def _save(path, tokens, offsets, columns=None, **changes):
    save_dataset(path, np.array(tokens), np.array(offsets), columns or {}, dataclasses.replace(INFO, **changes))
    return path


def test_instances_follow_one_another(run_script, tmp_path):
    word_start = np.array([1, 0, 1, 1, 0], np.uint8)
    first = _save(tmp_path / "a.pt", [1, 2, 3, 4, 5], [0, 2, 5], {"word_start": word_start})
    second = _save(tmp_path / "b.pt", [6, 7], [0, 2], {"word_start": word_start[:2]},
                   counts={"documents": 1, "tokens": 2})
    text = run_script("merge_datasets.py", first, second, first, "--output_path", tmp_path / "c.pt")
    merged = open_dataset(tmp_path / "c.pt")
    assert [merged[i].tolist() for i in range(len(merged))] == [[1, 2], [3, 4, 5], [6, 7], [1, 2], [3, 4, 5]]
    assert merged.columns["word_start"].tolist() == [1, 0, 1, 1, 0, 1, 0, 1, 0, 1, 1, 0]
    assert merged.info.counts == {"documents": 5, "tokens": 12}
    assert "5 instances, 12 tokens" in text


@pytest.mark.parametrize("changes", [{"seq_length": 16}, {"vocab_fingerprint": "cd"}, {"processor": "bert"},
                                     {"seed": 8}, {"tokenizer": {"kind": "char"}}, {"dup_factor": 5},
                                     {"dynamic_masking": False},
                                     {"masking": {"span_masking": True}},
                                     {"special_ids": {**SPECIAL, "pad": 9}}])
def test_other_settings_are_refused_by_name(changes, run_script, tmp_path):
    first = _save(tmp_path / "a.pt", [1], [0, 1])
    second = _save(tmp_path / "b.pt", [1], [0, 1], **changes)
    with pytest.raises(UserError, match=rf"b.pt: its {next(iter(changes))} is .*, that of .*a.pt is"):
        run_script("merge_datasets.py", "--dataset_path", first, second, "--output_path", tmp_path / "c.pt")
    assert not (tmp_path / "c.pt").exists()


def test_other_columns_and_a_single_dataset_are_refused(run_script, tmp_path):
    first = _save(tmp_path / "a.pt", [1], [0, 1])
    second = _save(tmp_path / "b.pt", [1], [0, 1], {"word_start": np.ones(1, np.uint8)})
    with pytest.raises(UserError, match=r"its columns are \['word_start'\], those of .*a.pt are none"):
        run_script("merge_datasets.py", first, second, "--output_path", tmp_path / "c.pt")
    with pytest.raises(UserError, match="two datasets or more"):
        run_script("merge_datasets.py", first, "--output_path", tmp_path / "c.pt")
