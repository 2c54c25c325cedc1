"""Packed offsets stand for the int64 array they were made from."""

import numpy as np
import pytest

from uer.data.packed_offsets import Offsets, block_shift, pack


@pytest.mark.parametrize("longest", [1, 4, 13, 128, 512, 513, 65535, 65536, 10**6])
def test_a_full_block_fits_into_uint16_and_a_larger_one_would_not(longest):
    size = 1 << block_shift(longest)
    assert (size - 1) * longest <= 65535 < (2 * size - 1) * longest


@pytest.mark.parametrize(("instances", "longest"), [(0, 5), (1, 5), (3000, 400), (1024, 128), (1023, 128),
                                                      (50, 70_000)])
@pytest.mark.parametrize("piece", [1, 7, 512, 10_000])
def test_packing_loses_nothing(instances, longest, piece):
    lengths = np.random.default_rng(5).integers(longest // 2, longest + 1, instances)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64) + (1 << 40)
    blocks = []
    shift = block_shift(longest)
    starts = np.concatenate(list(pack([offsets[i:i + piece] for i in range(0, len(offsets), piece)], shift, blocks)))
    packed = Offsets(np.concatenate(blocks), starts, shift)
    assert starts.dtype == np.uint16 and len(packed.block_starts) == (instances >> shift) + 1
    assert np.array_equal(packed, offsets) and len(packed) == instances + 1
    assert np.array_equal(packed[1:-1], offsets[1:-1]) and packed[-1] == offsets[-1]
    some = np.array([instances, 0, instances // 2])
    assert np.array_equal(packed[some], offsets[some]) and packed[some].dtype == np.int64
    with pytest.raises(IndexError):
        packed[instances + 1]


def test_an_instance_that_is_too_long_is_a_bug():
    with pytest.raises(AssertionError, match="too long"):
        list(pack([np.array([0, 70_000])], block_shift(128), []))
