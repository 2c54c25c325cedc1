"""Runs pretrain.py many times for the price of one import of torch: a process that forks a child for each run.

One JSON line in, one out. {"argv": [...], "env": {...}, "log": PATH} starts a run and answers its process id;
{"wait": PID, "seconds": 9} answers its exit status as the shell counts it, or null when it goes on longer.
"""

import json
import os
import resource
import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

# What takes long to import: torch's optimizers load its compiler.
import torch._dynamo  # noqa: E402
import torch.distributed.fsdp  # noqa: E402, F401

import uer.pretraining  # noqa: E402, F401


def start(request: dict) -> int:
    child = os.fork()
    if child:
        return child
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if request.get("file_limit"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], resource.RLIM_INFINITY))
    os.environ.update(request.get("env", {}))
    sys.argv = ["pretrain.py", *request["argv"]]
    status = 0
    try:
        runpy.run_path(str(ROOT / "pretrain.py"), run_name="__main__")
    except SystemExit as leaving:
        status = leaving.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if time.monotonic() > until:
            return None
        time.sleep(0.005)


if __name__ == "__main__":
    for line in sys.stdin:
        request = json.loads(line)
        answer = wait(request["wait"], request["seconds"]) if "wait" in request else start(request)
        print(json.dumps(answer), flush=True)
