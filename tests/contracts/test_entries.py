"""Every entry of every room keeps its room's contract: it imports, says what it is, and reproduces its worked example."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import tunesmith
from tunesmith.core import registry
from tunesmith.core.errors import UserError

Entry = tuple[registry.Registry, str]
ENTRIES: list[Entry] = [(room, name) for room in registry.ROOMS for name in room.names()]

# What a room's code may rely on, whichever entry it got.
REQUIRED = {
    "metrics": ("evaluate", "HIGHER_IS_BETTER", "worked_example"),
    "data/sources": ("splits", "LICENCE", "CITATION"),
    "data/demonstrations": ("choose", "worked_example"),
    "retrieval/retrievers": (
        *("Parameters", "build", "searcher", "encoder", "log_weights", "UNRELATED"),
        *("CITATION", "evaluate", "worked_example"),
    ),
    "peft": ("Parameters", "attach", "rates", "SAVES", "TITLE", "LEARNING_RATE", "IDENTITY_AT_START"),
    "objectives": ("loss", "evaluate", "worked_example"),
    "rl/advantages": ("advantages", "evaluate", "worked_example"),
    "evaluate/calibrators": ("fit", "apply", "evaluate", "worked_example"),
    "train/engines": ("launch",),
    "train/trackers": ("Writer",),
    "recipes/routes": (),
    "recipes/baselines": (),
    "recipes/tunings": ("Parameters", "DEFAULTS", "LEARNING_RATES", "supervise"),
    "recipes/aligners": ("Parameters", "LEARNS_FROM"),
    "recipes/scorers": ("Parameters", "open"),
    "recipes/plans": ("Config", "run"),
    "recipes": ("Config", "run"),
}


def entries(keep: Callable[[ModuleType], bool] = lambda entry: True, room: str = "") -> pytest.MarkDecorator:
    """Run a test once for every entry that fits."""
    chosen = [(r, n) for r, n in ENTRIES if room in ("", r.room) and keep(r.get(n))]
    return pytest.mark.parametrize(("room", "name"), chosen, ids=[f"{r.room}:{n}" for r, n in chosen])


def value_of(room: registry.Registry, entry: ModuleType, inputs: Mapping[str, Any]) -> Any:
    """What an entry makes of a worked example's inputs."""
    if room.room != "data/demonstrations":
        return entry.evaluate(**inputs)
    vectors = inputs.get("vectors", {})
    items = inputs.get("items", inputs["pool"][:1])
    embed = lambda rows: np.array([vectors[row.id] for row in rows])  # noqa: E731
    functions = {"label_of": lambda row: row.fields["label"], "similar": lambda rows, others: embed(rows) @ embed(others).T}
    chosen = entry.choose(inputs["pool"], items, inputs["shots"], 0, **functions)
    return [(row.id, row.fields.get("label")) for row in chosen[0]]


def agrees(got: Any, expected: Any, tolerance: float) -> bool:
    """Whether a value is the expected one: numbers within the tolerance, a set of ids or labels whatever their order."""
    if isinstance(expected, set):
        return any({row[column] for row in got} == expected for column in (0, 1))
    if isinstance(expected, list) and expected and isinstance(expected[0], str):
        return [row[0] for row in got] == expected
    return np.shape(got) == np.shape(expected) and bool(np.all(np.abs(np.subtract(got, expected)) <= tolerance))


@entries()
def test_an_entry_has_what_its_room_relies_on(room: registry.Registry, name: str) -> None:
    entry = room.get(name)
    assert [attribute for attribute in REQUIRED[room.room] if not hasattr(entry, attribute)] == []


_ONLINE = ("HAS_VALUES", "SAMPLES", "LEAST_SAMPLES", "PASSES", "MINIBATCH", "LEARNING_RATE", "credit", "policy_loss")
# What is asked of an aligner besides, by what it learns from.
OF_ALIGNERS = {
    "scores": _ONLINE,
    "pairs": ("HAS_REFERENCE", "loss"),
    "texts": ("HAS_REFERENCE", "loss"),
    "answers": _ONLINE,
    "nothing": ("SAMPLES",),
}


@entries(room="recipes/aligners")
def test_an_aligner_has_what_its_kind_relies_on(room: registry.Registry, name: str) -> None:
    entry = room.get(name)
    assert [attribute for attribute in OF_ALIGNERS[entry.LEARNS_FROM] if not hasattr(entry, attribute)] == []
    every = {attribute for others in OF_ALIGNERS.values() for attribute in others}
    assert [attribute for attribute in every - {*OF_ALIGNERS[entry.LEARNS_FROM]} if hasattr(entry, attribute)] == []
    assert entry.Parameters() == room.parameters(name)[1]


@entries()
def test_an_entry_says_what_it_is_in_one_line(room: registry.Registry, name: str) -> None:
    assert room.summary(name) == (room.get(name).__doc__ or "").split("\n")[0]
    assert 20 <= len(room.summary(name)) <= 140


@entries(lambda entry: hasattr(entry, "Parameters"))
def test_a_parameter_that_an_entry_does_not_have_is_refused(room: registry.Registry, name: str) -> None:
    with pytest.raises(UserError, match="no_such_parameter"):
        room.parameters({"name": name, "no_such_parameter": 1})


def test_every_method_that_saves_an_adapter_has_a_worked_example() -> None:
    methods = {name: registry.PEFT.get(name) for name in registry.PEFT.names()}
    assert [name for name, m in methods.items() if m.SAVES == "adapter" and not hasattr(m, "worked_example")] == []


@entries(lambda entry: hasattr(entry, "worked_example"))
def test_the_worked_example_comes_out(room: registry.Registry, name: str) -> None:
    entry = room.get(name)
    example = entry.worked_example()
    got = value_of(room, entry, example.inputs)
    assert agrees(got, example.expected, example.tolerance), f"{got}, and by hand {example.expected}: {example.how}"
    assert len(example.how) >= 20
    assert example.tolerance <= 1e-3


@entries(lambda entry: hasattr(entry, "worked_example"))
def test_other_inputs_do_not_give_the_worked_value(room: registry.Registry, name: str) -> None:
    entry = room.get(name)
    example = entry.worked_example()
    wrong = {**example.inputs, "shots": 1} if room is registry.DEMONSTRATIONS else example.wrong
    assert wrong, "a worked example needs `wrong` inputs, or it cannot fail"
    assert not agrees(value_of(room, entry, wrong), example.expected, example.tolerance)


@entries(room="metrics")
def test_a_metric_minds_neither_the_order_of_items_nor_equal_weights(room: registry.Registry, name: str) -> None:
    entry = room.get(name)
    example = entry.worked_example()
    backwards = {key: list(column)[::-1] for key, column in example.inputs.items()}
    assert agrees(entry.evaluate(**backwards), example.expected, example.tolerance)
    weights = np.array([[1.0], [3.0]]) * np.ones(len(next(iter(backwards.values()))))
    assert agrees(entry.evaluate(**example.inputs, weights=weights), [example.expected] * 2, example.tolerance)


METRIC = '''"""Share of answers that are exactly the word yes, which nobody needs."""

from tunesmith.core.records import WorkedExample

HIGHER_IS_BETTER = True


def evaluate(gold, predicted, weights=None):
    share = sum(p == "yes" for p in predicted) / len(predicted)
    return share if weights is None else [share] * len(weights)


def worked_example():
    inputs = {"gold": ["yes", "no"], "predicted": ["yes", "no"]}
    wrong = {"gold": ["yes", "no"], "predicted": ["yes", "yes"]}
    return WorkedExample(inputs, 0.5, "One answer of the two is yes: 1 / 2.", wrong=wrong)
'''


class Copy:
    """A copy of the package with one more metric in it."""

    def __init__(self, folder: Path, metric: str) -> None:
        package = Path(tunesmith.__path__[0])
        shutil.copytree(package, folder / "tunesmith", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "tunesmith" / "metrics" / "share_of_yes.py").write_text(metric, encoding="utf-8")
        self.environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `python ...` against the copy."""
        return subprocess.run([sys.executable, *arguments], env=self.environment, capture_output=True, text=True)

    def contracts(self) -> subprocess.CompletedProcess[str]:
        """Run this file's tests of the new metric against the copy."""
        return self.python("-m", "pytest", __file__, "-q", "-p", "no:cacheprovider", "-k", "metrics:share-of-yes")


def test_one_new_file_is_listed_offered_and_tested(tmp_path: Path) -> None:
    copy = Copy(tmp_path, METRIC)
    listed = copy.python("-c", "from tunesmith.core.registry import METRICS; print(METRICS.folder, METRICS.names())")
    assert str(tmp_path) in listed.stdout
    assert "share-of-yes" in listed.stdout
    help_text = copy.python("-m", "tunesmith", "--help")
    assert help_text.returncode == 0, help_text.stderr
    tested = copy.contracts()
    assert tested.returncode == 0, tested.stdout
    assert "5 passed" in tested.stdout


def test_a_new_file_that_breaks_its_contract_is_caught(tmp_path: Path) -> None:
    tested = Copy(tmp_path, METRIC.replace(", 0.5,", ", 0.4,")).contracts()
    assert tested.returncode == 1, tested.stdout
    assert "test_the_worked_example_comes_out" in tested.stdout


METHOD = '''"""A method that trains the last norm of a decoder, which nobody needs."""

from tunesmith.core.config import Config

SAVES, TITLE, LEARNING_RATE, IDENTITY_AT_START = "model", "last norm {size}", 1e-3, True


class Parameters(Config):
    size: int = 7
    """nothing"""


def attach(model, parameters, seed):
    model.requires_grad_(False)
    return {"model.norm.weight": model.model.norm.weight.requires_grad_(True)}


def rates(model, parameters):
    return {}
'''


def test_one_new_peft_method_is_a_rung_at_once(tmp_path: Path) -> None:
    copy = Copy(tmp_path, METRIC)
    (tmp_path / "tunesmith" / "peft" / "last_norm.py").write_text(METHOD, encoding="utf-8")
    arguments = ["ladder", "movies", "--model", "toy-llama", "--routes", "last-norm:size=3", "--baselines", "majority"]
    limits = ["--train_rows", "32", "--test_rows", "20", "--validation_rows", "0", "--guard_rows", "2", "--train.max_steps", "2"]
    run = copy.python("-m", "tunesmith", *arguments, *limits, "--run_dir", str(tmp_path / "run"), "--json")
    assert run.returncode == 0, run.stderr
    assert '"route": "last norm 3"' in run.stdout
    missing = copy.python("-m", "tunesmith", "ladder", "movies", "--routes", "last-nrom")
    assert missing.returncode == 2
    assert "Did you mean 'last-norm'?" in missing.stderr
