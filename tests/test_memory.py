import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from uer.memory import keep_freed_memory
if sys.argv[2] == "keep":
    assert keep_freed_memory()
bytearray(2**26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    bytearray(b"1") * 2**26
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's switch")
def test_memory_that_was_freed_is_not_asked_for_again(root):
    faults = {how: int(subprocess.run([sys.executable, "-c", FAULTS, str(root), how], capture_output=True, text=True,
                                      check=True).stdout) for how in ("return", "keep")}
    assert faults["keep"] < faults["return"] / 2
