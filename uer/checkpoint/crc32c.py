"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, computed by numpy on many pieces of the data at once.

The state of a CRC is linear over GF(2) in what it started from and in the data. So the data is cut into pieces of equal
length, which are computed side by side from the state 0, and joined afterwards:

    crc of AB = (crc of A, moved on by as many zero bytes as B is long) xor (crc of B)

"Moved on by n zero bytes" is a 32 x 32 matrix over GF(2), kept as (32,) uint32: what each bit becomes.

>>> hex(crc32c(b"123456789"))
'0xe3069283'
"""

from functools import cache

import numpy as np

POLYNOMIAL = 0x82F63B78  # with the lowest power in the highest bit
MOST_PIECES_BITS = 14  # so many states, 64 KiB, fit a near cache
BITS = np.arange(32, dtype=np.uint32)


def crc32c(data: bytes | np.ndarray) -> int:
    """The checksum of bytes.

    Args:
        data: bytes, or an array (N,) of uint8.
    """
    array = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    start = _times(_zeros(len(array)), np.full(1, 0xFFFFFFFF, np.uint32))
    return int(start[0] ^ _from_zero(array)) ^ 0xFFFFFFFF


def masked(crc: int) -> int:
    """How TensorFlow stores a checksum: turned right by 15 bits, plus a constant."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _from_zero(array: np.ndarray) -> int:
    """The state after the bytes (N,) from the state 0; zeros before them change nothing and fill the first piece."""
    bits = min(MOST_PIECES_BITS, len(array).bit_length() // 2)
    length = -(-len(array) // (2 << bits)) * 2  # bytes of a piece, even
    pieces = np.zeros(length << bits, np.uint8)
    pieces[len(pieces) - len(array):] = array
    states = np.zeros(1 << bits, np.uint32)
    table = _two_bytes()
    for words in pieces.view("<u2").reshape(1 << bits, -1).T:  # (pieces,), the next two bytes of each
        states ^= words
        states = table[states & 0xFFFF] ^ (states >> 16)
    step = _zeros(length)
    while len(states) > 1:
        states = _times(step, states[::2]) ^ states[1::2]
        step = _times(step, step)
    return int(states[0])


@cache
def _two_bytes() -> np.ndarray:
    """(65536,) uint32, what the lower 16 bits of a state become within two bytes."""
    states = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        states = (states >> 1) ^ (states & 1) * np.uint32(POLYNOMIAL)
    return states


def _zeros(count: int) -> np.ndarray:
    """(32,) the matrix of `count` zero bytes, by squaring."""
    power, result = np.uint32(1) << BITS, np.uint32(1) << BITS
    for _ in range(8):
        power = (power >> 1) ^ (power & 1) * np.uint32(POLYNOMIAL)
    while count:
        result = _times(power, result) if count & 1 else result
        power, count = _times(power, power), count >> 1
    return result


def _times(matrix: np.ndarray, states: np.ndarray) -> np.ndarray:
    """The matrix (32,) times each state (N,): the xor of what the bits that are set become."""
    chosen = (states[:, None] >> BITS) & 1  # (N, 32)
    return np.bitwise_xor.reduce(chosen * matrix, axis=1)
