"""Runs pretrain.py many times with one import of torch: this process forks a child for each run.

Each connection to its socket is served by a process of its own, so that all processes of a test run share the import.
One JSON line in, one out.

- {"argv": [...], "env": {...}, "log": PATH} starts a run of pretrain.py and answers its process id. A variable whose
  value in "env" is null is removed. With "program" the child runs that Python text instead of pretrain.py.
- {"wait": PID, "seconds": 9} answers its exit status as the shell counts it, or null when it still runs after so long.
- {"imports": true} answers what the import of all modules of `uer` did in this process, which was a fresh one:
  {"opened": files that were read, "written": files that were written, "printed": text, "heavy": modules that none of
  them may import}.

A run that is started with "kill" sends itself SIGKILL at a named moment: {"rename_to": NAME} when a file is about to
get that name, with only half of its content on disk; {"call": "module:Class.method", "count": 2} when that function is
called for the second time, {"call": ..., "path": NAME} when it is called with a path of that name.
"""

import contextlib
import gc
import io
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent.parent
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
os.fsync = lambda file: None  # as in conftest.py


def import_everything() -> dict[str, Any]:
    """Import all modules of `uer`, and watch what this does; `uer.tokenizers` comes first, which needs no torch."""
    sys.path.insert(0, str(ROOT))
    opened, written, watching, printed = [], [], True, io.StringIO()

    def watch(event: str, arguments: tuple) -> None:
        if watching and event == "open" and isinstance(arguments[0], str):
            name, _, flags = arguments
            if ".pyc" in name or name.endswith(".py"):
                return
            if (flags or 0) & WRITING and not name.startswith("/dev/"):
                written.append(name)
            elif name.startswith(str(ROOT)) and not name.startswith(sys.prefix):  # .venv may be inside the repository
                opened.append(name)

    sys.addaudithook(watch)
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted((ROOT / "uer").rglob("*.py"))]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        import_module("uer.tokenizers")
        heavy = [name for name in ("torch", "transformers") if name in sys.modules]
        for name in names:
            import_module(name.removesuffix(".__init__"))
    watching = False
    heavy += [name for name in ("torch._dynamo", "transformers") if name in sys.modules]
    return {"opened": opened, "written": written, "printed": printed.getvalue(), "heavy": heavy}


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
        sys.dont_write_bytecode = True  # a file that the limit cuts would be imported ever after
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_limit"], resource.RLIM_INFINITY))
    for name, value in request.get("env", {}).items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    kill = request.get("kill") or {}
    if "rename_to" in kill:
        kill_at_rename(kill["rename_to"])
    elif kill:
        kill_at_call(kill["call"], kill.get("count", 1), kill.get("path", ""))
    sys.argv = ["pretrain.py", *request.get("argv", [])]
    if "program" in request:
        leave_after(lambda: exec(compile(request["program"], "program", "exec"), {}))
    return leave_after(lambda: runpy.run_path(str(ROOT / "pretrain.py"), run_name="__main__"))


def leave_after(run: Callable[[], Any]) -> NoReturn:
    """End this process with the status that `run` gives."""
    status = 0
    try:
        run()
    except SystemExit as leaving:
        status = leaving.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class Forked(subprocess.Popen):
    """`subprocess.Popen` of a Python script, in a fork that need not import torch again."""

    def __init__(self, argv: list[str], stdout: IO, preexec_fn: Callable[[], None], **_: Any) -> None:
        self.args, self.returncode, self.stdin, self.stdout, self.stderr = argv, None, None, None, None
        self.pid, self._child_created, self._waitpid_lock = os.fork(), True, threading.Lock()
        if self.pid:
            return
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        preexec_fn()
        os.dup2(stdout.fileno(), 1)
        os.dup2(stdout.fileno(), 2)
        sys.argv = argv[1:]
        leave_after(lambda: runpy.run_path(sys.argv[0], run_name="__main__"))


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


def answer(request: dict, imports: dict[str, Any]) -> Any:
    if "imports" in request:
        return imports
    return wait(request["wait"], request["seconds"]) if "wait" in request else start(request)


def main() -> None:
    gc.disable()  # as in conftest.py
    imports = import_everything()
    # Runs with --sharding fsdp need these, and they take long to import.
    import_module("torch._dynamo")
    import_module("torch.distributed.fsdp")
    import_module("torch.distributed.checkpoint")
    # The garbage collector leaves alone what is there now. A child that collects would otherwise visit every object of
    # torch's modules, and so copy their memory: 0.3 s for each run.
    gc.collect()
    gc.freeze()
    gc.enable()
    listener, owner = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    while is_alive(owner):
        if select.select([listener], [], [], 0.5)[0]:
            connection, _ = listener.accept()
            if not os.fork():
                listener.close()
                serve(connection.makefile("rw", encoding="utf-8"), imports)
                os._exit(0)
            connection.close()


def serve(stream: IO[str], imports: dict[str, Any]) -> None:
    for line in stream:
        print(json.dumps(answer(json.loads(line), imports)), file=stream, flush=True)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
