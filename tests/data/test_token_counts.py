"""How often each token occurs in the datasets."""

import numpy as np
import pytest

from tests.data.test_store import TOKENS, path  # noqa: F401
from uer.data import token_counts as module
from uer.data.store import open_dataset
from uer.data.token_counts import token_counts
from uer.errors import UserError


def test_every_token_is_counted(path):  # noqa: F811
    dataset = open_dataset(path)
    counts = token_counts([dataset, dataset], "src", 300)
    assert counts.sum() == 22 and np.array_equal(np.flatnonzero(counts), TOKENS)
    assert np.array_equal(token_counts([dataset, dataset], "tgt", 300), counts)  # as of t5 and bart


def test_an_id_that_no_vocabulary_has_is_named(path):  # noqa: F811
    with pytest.raises(UserError, match=rf"the dataset is damaged: token id {max(TOKENS)} in a vocabulary of 9"):
        token_counts([open_dataset(path)], "src", 9)


def test_of_a_large_dataset_blocks_at_equal_distances_are_counted(path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(module, "BLOCK", 2)
    monkeypatch.setattr(module, "MOST_TOKENS", 4)  # 11 tokens: blocks of 2, 2 * 3 apart
    counts = token_counts([open_dataset(path)], "src", 300)
    assert np.flatnonzero(counts).tolist() == [0, 20, 120, 140]
