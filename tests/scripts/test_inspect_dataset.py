"""What inspect_dataset.py shows."""

import numpy as np
import pytest

from uer.data.store import FORMAT_VERSION, DatasetInfo, save_dataset
from uer.errors import UserError
from uer.tokenizers import Vocab

ENTRIES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"北京南东的首都是中国", "token", "##s"]
ROWS = [[2, *range(5, 17), 5, 6, 3], [2, 15, 16, 1, 3], [2, 5, 6, 3]]
TOKENS = [token for row in ROWS for token in row]


@pytest.fixture
def vocab_path(tmp_path):
    (tmp_path / "vocab.txt").write_text("".join(f"{entry}\n" for entry in ENTRIES), encoding="utf-8")
    return tmp_path / "vocab.txt"


@pytest.fixture
def dataset_path(tmp_path, vocab_path):
    vocab = Vocab.load(vocab_path)
    info = DatasetInfo(FORMAT_VERSION, "mlm", 16, vocab.fingerprint, len(vocab), {"kind": "bert"}, vocab.special_ids,
                       True, 1, 7, {}, {"documents": 3}, "preprocess.py --corpus_path a.txt")
    offsets = np.cumsum([0] + [len(row) for row in ROWS])
    save_dataset(tmp_path / "d.pt", np.array(TOKENS), offsets, {}, info)
    return tmp_path / "d.pt"


def test_metadata_lengths_tokens_and_samples(run_script, dataset_path, vocab_path):
    text = run_script("inspect_dataset.py", dataset_path, "--vocab_path", vocab_path, "--samples_num", 3)
    assert "command             preprocess.py --corpus_path a.txt" in text
    assert "lengths of 3 instances" in text and "16 ████" in text and "1 (33.3%)" in text
    assert f"padding in batches of 16 positions: {1 - 25 / 48:.1%}" in text
    assert f"tokens: {len(TOKENS)}; {len(set(TOKENS))} of 17 entries occur; unknown 1 (4.000%)" in text
    plain = [line.removeprefix("  plain:  ") for line in text.splitlines() if line.startswith("  plain:")]
    assert sorted(plain) == ["[CLS] tokens [UNK] [SEP]", "[CLS] 北京 [SEP]",
                             "[CLS] 北京南东的首都是中国 tokens 北京 [SEP]"]
    masked = [line for line in text.splitlines() if line.startswith("  masked:")]
    assert len(masked) == 3 and all("[MASK]" in line or "‹" in line for line in masked)


def test_without_a_vocabulary_ids_are_shown_and_no_samples(run_script, dataset_path):
    text = run_script("inspect_dataset.py", dataset_path)
    assert "sample" not in text and "commonest: " in text


def test_another_vocabulary_is_refused(run_script, dataset_path, vocab_path):
    vocab_path.write_text("".join(f"{entry}\n" for entry in ["西", *ENTRIES]), encoding="utf-8")
    with pytest.raises(UserError, match="not the vocabulary"):
        run_script("inspect_dataset.py", dataset_path, "--vocab_path", vocab_path)
