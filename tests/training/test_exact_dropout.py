"""A run refuses cuDNN's attention where it would round the run's dropout."""

import pytest

PROGRAM = """
import runpy, torch
try:
    runpy.run_path({script!r}, run_name="__main__")
finally:
    print("cuDNN attention:", torch.backends.cuda.cudnn_sdp_enabled())
"""


@pytest.mark.parametrize(("dropout", "cudnn"), [(0.1, False), (0.125, True)])
def test_cudnn_attention_in_a_run(playground, root, dropout, cudnn):
    log = playground.folder / "log"
    pid = playground.server.ask({"program": PROGRAM.format(script=str(root / "pretrain.py")), "log": str(log),
                                 "argv": playground.arguments("m", total_steps=1, dropout=dropout)})
    assert playground.server.ask({"wait": pid, "seconds": 240}) == 0, log.read_text()
    assert f"cuDNN attention: {cudnn}" in log.read_text()
