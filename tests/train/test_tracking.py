"""metrics.jsonl and every tracker: the same numbers, once each, whatever dies in between, and never the training's trouble."""

import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_fit import Training, rows, same

from tunesmith.core.config import validate
from tunesmith.core.errors import UserError
from tunesmith.core.registry import TRACKERS
from tunesmith.core.runs import Run, read_metrics
from tunesmith.train.parameters import FitParameters
from tunesmith.train.tracking import Log, named

Curves = dict[str, list[tuple[int, float]]]
STEPS = 9


def from_tensorboard(folder: Path) -> Curves:
    """Every scalar of a run as TensorBoard itself reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def from_trackio(folder: Path) -> Curves:
    """Every metric of a run as trackio itself reads it."""
    from trackio.sqlite_storage import SQLiteStorage

    name = "/".join(folder.resolve().parts[-2:])
    (run,) = [r for r in SQLiteStorage.get_run_records("tunesmith") if r["name"] == name]
    curves: Curves = {}
    for row in SQLiteStorage.get_logs("tunesmith", name, run_id=run["id"]):
        for key, value in row.items():
            if "/" in key:
                curves.setdefault(key, []).append((row["step"], value))
    return curves


READERS: dict[str, Callable[[Path], Curves]] = {"tensorboard": from_tensorboard, "trackio": from_trackio}


def from_log(folder: Path) -> Curves:
    """What a tracker must hold: metrics.jsonl by the trackers' names."""
    curves: Curves = {}
    for row in read_metrics(folder):
        for key, value in named(row).items():
            curves.setdefault(key, []).append((row["step"], value))
    return curves


def agree(tracked: Curves, logged: Curves) -> bool:
    """Equal step by step; event files hold 32 bits of a number."""
    return tracked.keys() == logged.keys() and all(
        [s for s, _ in tracked[key]] == [s for s, _ in logged[key]]
        and [v for _, v in tracked[key]] == pytest.approx([v for _, v in logged[key]], rel=1e-6)
        for key in logged
    )


@pytest.fixture(params=TRACKERS.names())
def tracker(request: pytest.FixtureRequest) -> str:
    """Each tracker, where its package is installed."""
    pytest.importorskip(request.param)
    return request.param


class Killed(BaseException):
    """Stands for the end of a process."""


def killed_at(training: Training, number: int) -> None:
    """Train until a given loss is about to be made."""

    def before(made: int) -> None:
        if made == number:
            raise Killed

    training.before_loss = before
    with pytest.raises(Killed):
        training.fit()


def test_every_tracker_has_a_reader() -> None:
    assert list(READERS) == TRACKERS.names()


def test_the_log_speaks_hugging_faces_words(tmp_path: Path) -> None:
    Training(tmp_path, evaluations=3).fit(evaluate=lambda: 0.5)
    log = read_metrics(tmp_path)
    every = [
        "step", "epoch", "loss", "grad_norm", "learning_rate", "mean_token_accuracy", "num_tokens", "tokens_per_second",
        "step_time",
        "peak_memory_gb", "time",
    ]  # fmt: skip
    assert [sorted(row) for row in log] == [
        sorted([*every, *(["eval_accuracy"] if row["step"] in (3, 6, 9) else [])]) for row in log
    ]
    assert [row["epoch"] for row in log] == pytest.approx([i / 3 for i in range(1, 10)])
    assert log[2]["num_tokens"] == sum(map(len, rows()))
    assert log[-1]["num_tokens"] == 3 * sum(map(len, rows()))
    tokens = [row["num_tokens"] for row in log]
    for row, before in zip(log, [0, *tokens], strict=False):
        assert row["tokens_per_second"] * row["step_time"] == pytest.approx(row["num_tokens"] - before)
    assert 0 < log[0]["peak_memory_gb"] <= log[-1]["peak_memory_gb"]
    assert named(log[2]).keys() == {f"train/{key}" for key in every[1:-1]} | {"eval/accuracy"}


def test_a_tracker_holds_what_the_log_holds(tracker: str, tmp_path: Path) -> None:
    plain, tracked = Training(tmp_path / "plain"), Training(tmp_path / "tracked", report_to=[tracker], evaluations=3)
    plain.fit()
    tracked.fit(evaluate=lambda: 0.5)
    logged = from_log(tmp_path / "tracked")
    assert [len(logged[key]) for key in ("train/loss", "train/step_time", "eval/accuracy")] == [9, 9, 3]
    assert agree(READERS[tracker](tmp_path / "tracked"), logged)
    assert same(plain.weights(), tracked.weights())
    # The comparison sees one value that is off, one step too few and one too many.
    for wrong in (
        {**logged, "train/loss": [(s, v + (s == 4) * 1e-3) for s, v in logged["train/loss"]]},
        {**logged, "train/loss": logged["train/loss"][1:]},
        {**logged, "train/loss": [*logged["train/loss"], (STEPS, 1.0)]},
    ):
        assert not agree(wrong, logged)


@pytest.mark.parametrize("death", [2, 4, 6, 9])
def test_killed_and_resumed_has_every_step_once(tracker: str, tmp_path: Path, death: int) -> None:
    folder = tmp_path / "run"
    killed_at(Training(folder, report_to=[tracker]), death)
    killed_at(Training(folder, report_to=[tracker]), 1)
    Training(folder, report_to=[tracker]).fit()
    tracked = READERS[tracker](folder)
    assert [step for step, _ in tracked["train/loss"]] == list(range(1, STEPS + 1))
    assert agree(tracked, from_log(folder))


def test_a_tracker_asked_for_later_gets_the_steps_before(tracker: str, tmp_path: Path) -> None:
    killed_at(Training(tmp_path / "run"), 6)
    Training(tmp_path / "run", report_to=[tracker]).fit()
    assert agree(READERS[tracker](tmp_path / "run"), from_log(tmp_path / "run"))


def test_what_a_killed_process_had_not_written_is_made_good(tracker: str, tmp_path: Path) -> None:
    """Between a step's line in the log and its copy in a tracker is a moment in which everything may die."""
    run = Run(tmp_path / "run", {"test": 1}, {})
    with Log(run, [tracker], 0) as log:
        log.write({"step": 1, "loss": 3.0})
    run.log({"step": 2, "loss": 2.0, "time": time.time()})
    run.log({"note": "of no step"})
    assert not agree(READERS[tracker](run.folder), from_log(run.folder))
    with Log(run, [tracker], 2) as log:
        log.write({"step": 3, "loss": 1.0})
    assert READERS[tracker](run.folder) == {"train/loss": [(1, 3.0), (2, 2.0), (3, 1.0)]}


def test_two_runs_do_not_mix(tracker: str, tmp_path: Path) -> None:
    for name, loss in (("a", 1.0), ("b", 2.0)):
        with Log(Run(tmp_path / name, {"test": 1}, {}), [tracker], 0) as log:
            log.write({"step": 1, "loss": loss})
    assert [READERS[tracker](tmp_path / n)["train/loss"] for n in "ab"] == [[(1, 1.0)], [(1, 2.0)]]


class Odd(Exception):
    """An error that nobody foresaw."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Odd("of the package")])
@pytest.mark.parametrize("at", ["__init__", "write", "close"])
def test_a_tracker_that_fails_is_said_once_and_training_goes_on(
    tracker: str, tmp_path: Path, at: str, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = Training(tmp_path / "straight")
    straight.fit()

    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(TRACKERS.get(tracker).Writer, at, fail)
    failing = Training(tmp_path / "failing", report_to=[tracker])
    failing.fit()
    warnings = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert len(warnings) == 1
    assert f"WARNING: {tracker} failed ({type(error).__name__}: " in warnings[0]
    assert "training goes on" in warnings[0]
    assert len(read_metrics(tmp_path / "failing")) == STEPS
    assert same(failing.weights(), straight.weights())


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorboard")
    Run(tmp_path / "run", {"test": 1}, {})
    (tmp_path / "run" / "tensorboard").write_text("a file where the folder should be")
    Training(tmp_path / "run", report_to=["tensorboard"]).fit()
    assert "WARNING: tensorboard failed (FileExistsError: " in capsys.readouterr().err


def test_a_full_disk_costs_the_tracker_and_the_next_process_makes_it_good(
    tracker: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "run", {"test": 1}, {})
    with Log(run, [tracker], 0) as log:
        log.write({"step": 1, "loss": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))  # no file may grow beyond this
    try:
        with Log(run, [tracker], 1) as log:
            for step in range(2, 40):
                log.write({"step": step, "loss": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert error.count(f"WARNING: {tracker} failed") == 1
    assert "could not be written to metrics.jsonl" in error
    logged = [row["step"] for row in read_metrics(run.folder)]
    assert 1 < len(logged) < 39
    with Log(run, [tracker], 39) as log:
        log.write({"step": 40, "loss": 1.0})
    assert [step for step, _ in READERS[tracker](run.folder)["train/loss"]] == [*logged, 40]


@pytest.mark.parametrize("name", TRACKERS.names())
def test_a_missing_package_is_said_before_anything_starts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.train.parameters.find_spec", lambda package: None if package == name else object())
    with pytest.raises(UserError) as refused:
        validate(FitParameters, {"report_to": [name]}, "tune")
    assert refused.value.message == f"report_to: {name} is not installed"
    assert refused.value.fix == "Install it: pip install 'tunesmith[tracking]'"


def test_an_unknown_tracker_has_a_near_miss() -> None:
    with pytest.raises(UserError, match=r"unknown tracker 'tensorbord'\s+Did you mean 'tensorboard'"):
        validate(FitParameters, {"report_to": ["tensorbord"]}, "tune")


def test_no_package_is_imported_that_was_not_asked_for(tmp_path: Path) -> None:
    code = (
        "import sys, json; from pathlib import Path\n"
        "from tunesmith.core.runs import Run; from tunesmith.train.tracking import Log\n"
        "with Log(Run(Path(sys.argv[1]), {}, {}), sys.argv[2:], 0) as log: log.write({'step': 1, 'loss': 1.0})\n"
        "print(json.dumps([p for p in ('tensorboard', 'trackio') if p in sys.modules]))"
    )
    for asked in ([], [name for name in TRACKERS.names() if name == "tensorboard"]):
        for name in asked:
            pytest.importorskip(name)
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / str(len(asked))), *asked], capture_output=True, text=True
        )
        assert json.loads(done.stdout) == asked, done.stderr


def test_trackio_stays_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even with a Space, a server and a token in the environment, nothing is connected to and nothing listens."""
    pytest.importorskip("trackio")
    reached: list[Any] = []
    for name in ("connect", "connect_ex", "bind", "listen"):
        monkeypatch.setattr(socket.socket, name, lambda self, *address: reached.append(address))
    monkeypatch.setenv("TRACKIO_SPACE_ID", "somebody/space")
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://192.0.2.1/?write_token=x")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    Training(tmp_path / "run", report_to=["trackio"]).fit()
    assert reached == []
    assert len(from_trackio(tmp_path / "run")["train/loss"]) == STEPS


def test_the_page_explains_every_name(tmp_path: Path) -> None:
    Training(tmp_path, max_steps=1).fit()
    page = (Path(__file__).parents[2] / "docs" / "tracking.md").read_text(encoding="utf-8")
    explained = {line.split("`")[1] for line in page.split("## Trackers")[0].splitlines() if line.startswith("| `")}
    assert explained == {*read_metrics(tmp_path)[0], "eval_loss", "eval_accuracy"}


def test_a_tensorboard_that_looks_on_sees_no_step_twice(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = Run(tmp_path / "run", {"test": 1}, {})
    with Log(run, ["tensorboard"], 0) as log:
        for step in (1, 2, 3, 4):
            log.write({"step": step, "loss": 1.0})
    looking = accumulator.EventAccumulator(str(run.folder / "tensorboard"), size_guidance={"scalars": 0})
    looking.Reload()
    with Log(run, ["tensorboard"], 2) as log:  # killed after step 4, resumed after step 2
        log.write({"step": 3, "loss": 2.0})
    looking.Reload()
    assert [(e.step, e.value) for e in looking.Scalars("train/loss")] == [(1, 1.0), (2, 1.0), (3, 2.0)]
