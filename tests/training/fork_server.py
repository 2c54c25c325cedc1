"""Runs pretrain.py many times for the price of one import of torch: a process that forks a child for each run.

One JSON line in, one out. {"argv": [...], "env": {...}, "log": PATH} starts a run and answers its process id;
{"wait": PID, "seconds": 9} answers its exit status as the shell counts it, or null when it goes on longer.

A run that is started with "kill" sends itself SIGKILL at a named moment: {"rename_to": NAME} when a file is about to
get that name, with only half of its content on disk; {"call": "module:Class.method", "count": 2} when that function is
called for the second time, {"call": ..., "path": NAME} when it is called with a path of that name.
"""

import json
import os
import resource
import runpy
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

# What takes long to import: torch's optimizers load its compiler.
import torch._dynamo  # noqa: E402
import torch.distributed.fsdp  # noqa: E402, F401

import uer.training.run  # noqa: E402, F401


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_rename(name: str) -> None:
    """Arrange for SIGKILL in the middle of writing a file that is renamed when it is whole."""
    def watch(event: str, arguments: tuple) -> None:
        if event == "os.rename" and Path(arguments[1]).name == name:
            os.truncate(arguments[0], os.path.getsize(arguments[0]) // 2)
            kill_myself()

    sys.addaudithook(watch)


def kill_at_call(function: str, count: int = 1, path: str = "") -> None:
    """Arrange for SIGKILL at the `count`th call of `module:Class.method`, of those with this path if one is given."""
    module, _, name = function.partition(":")
    *outer, name = name.split(".")
    owner = import_module(module)
    for part in outer:
        owner = getattr(owner, part)
    original, calls = getattr(owner, name), 0

    def counting(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += not path or any(isinstance(value, Path) and value.name == path for value in arguments)
        if calls == count:
            kill_myself()
        return original(*arguments, **named)

    setattr(owner, name, counting)


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
    kill = request.get("kill") or {}
    if "rename_to" in kill:
        kill_at_rename(kill["rename_to"])
    elif kill:
        kill_at_call(kill["call"], kill.get("count", 1), kill.get("path", ""))
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
