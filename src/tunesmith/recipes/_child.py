"""One assignment in a process of its own, stopped when we are stopped."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from tunesmith.core.errors import Interrupted, UserError, WorkFailed
from tunesmith.core.files import write_json
from tunesmith.recipes._ladder.climb import Assignment, failure_file


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
    try:
        code = run_process(["tunesmith.recipes._ladder.climb", str(path)], meanwhile)
    except Interrupted:
        failure_file(folder).unlink(missing_ok=True)
        raise
    finally:
        path.unlink(missing_ok=True)
    return _failure(code, folder) if code else None


def run_process(words: Sequence[str], meanwhile: Callable[[], None] = lambda: None, output: IO[str] | None = None) -> int:
    """Run a Python module with arguments in a process of its own; returns its exit code, negative = ended by that signal.

    Args:
        meanwhile: called ten times a second, and once after the end. output: where its stdout goes; None = to ours.

    Raises:
        Interrupted: we were told to stop; the process has ended.
    """
    with _Signals() as signals:
        command = [sys.executable, "-m", *words]
        child = subprocess.Popen(command, start_new_session=True, close_fds=False, stdout=output)
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
    if signals.caught:
        raise Interrupted("stopped; what is finished is kept", 128 + signals.caught[0], "The same command goes on from there.")
    meanwhile()
    return child.returncode


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
    return (read_failure(folder) if code > 0 else None) or silent_failure(code)


def silent_failure(code: int) -> Failure:
    """What to say of a process that ended badly without a word."""
    if code > 0:
        return Failure(f"its process ended with exit code {code} and said nothing")
    name = signal.Signals(-code).name
    hint = "; memory may have run out" if code == -signal.SIGKILL else ""
    return Failure(f"its process was ended by {name}{hint}")
