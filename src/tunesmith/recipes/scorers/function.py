"""A Python function of your own: (prompts, answers) -> scores, two lists of texts in, one list of numbers out."""

from __future__ import annotations

import importlib.util
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.config import Config
from tunesmith.core.errors import UserError, WorkFailed, near_miss

if TYPE_CHECKING:
    from tunesmith.train.rollouts import Answer, Scorer

# What a function of somebody else's throws when it is wrong; what ends a process passes through.
_THROWN = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError, LookupError, MemoryError, NameError,
    OSError, RuntimeError, StopIteration, SyntaxError, TypeError, ValueError,
)  # fmt: skip


class Parameters(Config):
    """Where the function is."""

    path: str
    """FILE.py:NAME; the file is run as your own programme, so it must be one you trust"""


def open(parameters: Parameters) -> Scorer:
    """Load the file and return its function as a scorer.

    Raises:
        UserError: no such file or function, or the file does not run.
    """
    file, _, name = parameters.path.rpartition(":")
    path = Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"there is no Python file '{file or parameters.path}' with a scorer", "Write --scorer FILE.py:FUNCTION.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{file} does not run: {type(error).__name__}: {error}", "Mend the file.") from error
    function: Any = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{file} has no function '{name}'", near_miss(name, known))

    def score(answers: Sequence[Answer]) -> Sequence[float]:
        return _asked(function, parameters, answers)

    return score


def _asked(function: Any, parameters: Parameters, answers: Sequence[Answer]) -> list[float]:
    """Call the function.

    Raises:
        OSError: the network or the disk failed it; who asks may ask again.
        WorkFailed: it throws; names the first answer that it throws at by itself. Or it gives something that is no number.
    """
    try:
        return _numbers(function([a.prompt for a in answers], [a.text for a in answers]), parameters)
    except OSError:
        raise
    except _THROWN as error:
        raise WorkFailed(
            f"the scorer {parameters.path} throws {type(error).__name__}: {error}{_line(error, parameters)}"
            f"{_culprit(function, answers)}",
            "Mend the function; rounds that were finished are kept.",
        ) from error


def _numbers(scores: Any, parameters: Parameters) -> list[float]:
    try:
        return [float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise WorkFailed(
            f"the scorer {parameters.path} gives what is no list of numbers: {error}", "Return one number for each answer."
        ) from error


def _line(error: BaseException, parameters: Parameters) -> str:
    """Say in which line of the file it threw; "" where it was in none."""
    file = Path(parameters.path.rpartition(":")[0])
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).name == file.name]
    return f" (line {lines[-1]} of {file})" if lines else ""


def _culprit(function: Any, answers: Sequence[Answer]) -> str:
    """Say which answer it throws at when asked one by one; "" where it does so only with all of them."""
    for answer in answers:
        try:
            list(function([answer.prompt], [answer.text]))
        except _THROWN:
            return f", at the answer {answer.text[:80]!r} to {answer.prompt[:80]!r}"
    return ""
