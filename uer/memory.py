"""Keep freed memory for the next step.

glibc hands every freed block of more than a few MiB back to the kernel, which has to clear it page by page when the
next step asks for it again: on the CPU, a fifth of a small model's training step.
"""

import ctypes
import platform

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # mallopt's numbers, from malloc.h
TOP_PAD_BYTES = 64 * 2**20


def keep_freed_memory() -> bool:
    """Let this process keep the memory it has freed instead of returning it between steps.

    Returns:
        Whether it could be set; only glibc (Linux) has the switch, elsewhere nothing happens.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(name, value) == 1
               for name, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, TOP_PAD_BYTES)))
