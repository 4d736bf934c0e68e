"""Runs `tunesmith` commands in forked processes, so that a hundred of them can be killed without importing torch each time.

As a module: `Server` starts it and asks it. As a script: reads one JSON request a line, forks, and answers with one line.
A request is {"arguments", "cwd", "die_at"?, "die_after"?, "signal"?}: die_at = SIGKILL itself at the n-th file operation
below the working directory, die_after = SIGKILL from outside after so many seconds, signal = [number, steps]: send a
signal once so many steps are logged, disk = arguments of `trouble.Disk`, poison and
full_disk = those of `trouble.poisoned` and `trouble.filled` after the first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from trouble import Disk, filled, poisoned

_OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link")


class Server:
    """The process that forks; use as a context manager."""

    def __enter__(self) -> Server:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        return self

    def run(self, cwd: Path, *arguments: str, **how: Any) -> dict[str, Any]:
        """Run one command to its end, however it comes: {"code", "out", "err", "operations", "seconds"}; -9 = killed."""
        cwd.mkdir(parents=True, exist_ok=True)
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps({"arguments": arguments, "cwd": str(cwd), **how}) + "\n")
        return json.loads(self._process.stdout.readline())

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def _child(request: dict[str, Any], folder: str) -> None:
    from tunesmith import cli

    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    os.chdir(folder)
    count, die_at, inside = 0, request.get("die_at"), os.path.join(folder, "run")

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event in _OPERATIONS and isinstance(arguments[0], str | os.PathLike):
            path = os.path.join(folder, os.fspath(arguments[0]))
            if path.startswith(inside):
                count += 1
                if count == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    with Disk(**request.get("disk", {"below": "/nothing"})).between() as disk:
        for name, wrap in (("poison", poisoned), ("full_disk", filled)):
            if name in request:
                from tunesmith.recipes import _adapt

                _adapt.fit = wrap(_adapt.fit, *request[name])
        code = cli.main(request["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    Path(f"{folder}.count").write_text(
        json.dumps({"operations": count, "calls": disk.calls, "failed": disk.failed}), encoding="utf-8"
    )
    os._exit(code)


def _steps(folder: str) -> int:
    try:
        return Path(folder, "run", "metrics.jsonl").read_text(encoding="utf-8").count("\n")
    except OSError:
        return 0


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    folder, start = request["cwd"], time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            _child(request, folder)
        finally:
            os._exit(99)
    if "die_after" in request:
        time.sleep(request["die_after"])
        os.kill(pid, signal.SIGKILL)
    if "signal" in request:
        number, steps = request["signal"]
        while _steps(folder) < steps and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
        os.kill(pid, number)
    _, status = os.waitpid(pid, 0)
    said = {name: Path(f"{folder}.{name}").read_text(encoding="utf-8") for name in ("out", "err")}
    counted = Path(f"{folder}.count")
    seen = json.loads(counted.read_text(encoding="utf-8")) if counted.is_file() else {"operations": 0}
    counted.unlink(missing_ok=True)
    return {"code": os.waitstatus_to_exitcode(status), **seen, "seconds": time.perf_counter() - start, **said}


if __name__ == "__main__":
    import bm25s  # noqa: F401
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401  so that a child has nothing left to import

    import tunesmith.models.toy
    import tunesmith.recipes._adapt
    import tunesmith.recipes._align.ready
    import tunesmith.recipes._artefact
    import tunesmith.recipes._tune.rows
    import tunesmith.recipes.tune  # noqa: F401

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)  # noqa: T201
