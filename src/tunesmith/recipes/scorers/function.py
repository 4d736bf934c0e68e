"""A Python function of your own: (prompts, answers) -> scores, two lists of texts in, one list of numbers out."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.config import Config
from tunesmith.core.errors import UserError, near_miss

if TYPE_CHECKING:
    from tunesmith.train.rollouts import Answer, Scorer


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
        scores: Any = function([a.prompt for a in answers], [a.text for a in answers])
        return list(scores)

    return score
