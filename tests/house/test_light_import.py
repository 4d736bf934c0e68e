"""`import tunesmith` and `tunesmith --help` answer at once: they load no numerical library."""

import json
import subprocess
import sys
import time

import pytest

import tunesmith

HEAVY = ("torch", "transformers", "numpy", "matplotlib", "sklearn", "peft")
HELP_SECONDS, MOST_TRIES = 0.3, 20


def python(*arguments: str) -> str:
    """Run a fresh interpreter and return what it printed; the test fails with its error if it fails."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code: str) -> set[str]:
    """Run code in a fresh interpreter and return which heavy libraries it has loaded at its end."""
    report = f"\nimport sys, json; print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    return set(json.loads(python("-c", code + report).splitlines()[-1]))


HELP = """
import runpy, sys
sys.argv = ["tunesmith", "--help"]
try:
    runpy.run_module("tunesmith", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
"""


@pytest.mark.parametrize("code", ["import tunesmith", HELP], ids=["import", "help"])
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert loaded_by(code) == set()


def test_something_heavy_would_be_seen() -> None:
    assert loaded_by("import numpy") == {"numpy"}


def test_help_answers_at_once() -> None:
    # The fastest of several runs: a busy machine slows some of them down and can speed none of them up.
    taken: list[float] = []
    while len(taken) < MOST_TRIES and min(taken, default=HELP_SECONDS) >= HELP_SECONDS:
        started = time.perf_counter()
        python("-m", "tunesmith", "--help")
        taken.append(time.perf_counter() - started)
    assert min(taken) < HELP_SECONDS


def test_all_is_exactly_what_is_exported() -> None:
    # A fresh interpreter: other tests leave the rooms they import as attributes of the package.
    code = "import tunesmith as t; print(len([getattr(t, n) for n in t.__all__]), sorted(t.__all__) == dir(t))"
    assert python("-c", code).split() == [str(len(set(tunesmith.__all__))), "True"]


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="tuna"):
        _ = tunesmith.tuna
