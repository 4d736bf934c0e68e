"""One assignment in a process of its own, stopped when we are stopped."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import Interrupted, UserError, WorkFailed
from tunesmith.core.files import write_json
from tunesmith.recipes._climb import Assignment, failure_file


@dataclass(frozen=True)
class Failure:
    """Why a process left no result: a sentence, what to do about it, and the exit code it asks for."""

    message: str
    fix: str = ""
    exit_code: int = 1


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a run directory to ourselves: two ladders in one folder would undo each other's work.

    Processes started meanwhile hold on to it too, so one that outlives us still keeps others away.

    Raises:
        UserError: somebody else is at work in it. WorkFailed: nothing can be written there.
    """
    try:
        place = folder.resolve()
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.with_name(f".{place.name}.lock").open("w", encoding="utf-8")
    except OSError as error:
        raise WorkFailed(f"cannot write {folder}: {error.strerror}", "Choose another --run_dir.") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another tunesmith is at work in {folder}", "Wait for it, stop it, or choose another --run_dir."
            ) from None
        os.set_inheritable(lock.fileno(), True)
        yield


def run_child(assignment: Assignment, meanwhile: Callable[[], None] = lambda: None) -> Failure | None:
    """Run one assignment in a process of its own; returns why it failed, None if it did not.

    The process has a session of its own, so that only we are told to stop and it is told once, by SIGTERM: a training
    then finishes its step and saves, anything else ends at once.

    Args:
        meanwhile: called ten times a second, and once after the end.

    Raises:
        Interrupted: we were told to stop; the process has ended.
    """
    folder = Path(assignment.folder)
    path = folder.with_name(f"{folder.name}.assignment.json")
    for name in assignment.baselines:
        failure_file(folder / name).unlink(missing_ok=True)
    failure_file(folder).unlink(missing_ok=True)
    write_json(path, asdict(assignment))
    command = [sys.executable, "-m", "tunesmith.recipes._climb", str(path)]
    with _Signals() as signals:
        child = subprocess.Popen(command, start_new_session=True, close_fds=False)
        try:
            signals.pass_on_to(child)
            while child.poll() is None:
                time.sleep(0.1)
                if not signals.caught:
                    meanwhile()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
            path.unlink(missing_ok=True)
    if signals.caught:
        failure_file(folder).unlink(missing_ok=True)
        raise Interrupted("stopped; what is finished is kept", 128 + signals.caught[0], "The same command goes on from there.")
    meanwhile()
    return _failure(child.returncode, folder) if child.returncode else None


class _Signals:
    """Catch what tells us to stop, and pass it on to a process."""

    def __init__(self) -> None:
        self.caught: list[int] = []
        self._before: dict[int, Any] = {}
        self._child: subprocess.Popen[bytes] | None = None

    def pass_on_to(self, child: subprocess.Popen[bytes]) -> None:
        """Tell this process what we have been told and will be told."""
        self._child = child
        if self.caught:
            child.terminate()

    def _catch(self, number: int, frame: Any) -> None:
        self.caught.append(number)
        if self._child:
            self._child.terminate()

    def __enter__(self) -> _Signals:
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup wants to be left alone
                    self._before[number] = signal.signal(number, self._catch)
        except ValueError:  # not the main thread: signals are somebody else's business there
            pass
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def read_failure(folder: Path) -> Failure | None:
    """Return what a process said when it failed, or None."""
    try:
        said = json.loads(failure_file(folder).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Failure(said["message"], said["fix"], said["exit_code"])


def _failure(code: int, folder: Path) -> Failure:
    if code > 0:
        return read_failure(folder) or Failure(f"its process ended with exit code {code} and said nothing")
    name = signal.Signals(-code).name
    hint = "; memory may have run out" if code == -signal.SIGKILL else ""
    return Failure(f"its process was ended by {name}{hint}")
