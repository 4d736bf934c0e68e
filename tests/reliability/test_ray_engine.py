"""`tune --engine ray`: workers learn what one learns, take over from each other, and survive the death of one of them."""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from processes import grandchildren, title
from tunesmith import cli
from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.recipes import tune
from tunesmith.train.engines import ray as engine

SMALL = {
    "model": "toy-llama", "dtype": "fp32", "threads": 1, "batch_size": 3, "learning_rate": 1e-3, "evaluations": 2,
    "validation_rows": 4, "peft": "lora:rank=4", "warmup": 0.0, "guard": False,
}  # fmt: skip
TWO = {"engine": "ray", "workers": 2}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray of our own, kept from one test to the next."""
    pytest.importorskip("ray", reason="needs the optional package ray")
    with engine.cluster(None, 4) as ray:
        yield ray


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the long form was asked for."""
    return bool(request.config.getoption("--full", default=False))


def train(rows: Path, **how: Any) -> tuple[dict[str, Any], list[float]]:
    """Tune; the report, and the loss of every step."""
    report = tune.run(tune.Config(data=str(rows), **{**SMALL, **how}))
    return report, logged(how["run_dir"])


def logged(folder: str) -> list[float]:
    """The loss of every step so far, each exactly once."""
    path = Path(folder) / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["loss"] for line in lines]


def at_step(folder: str, step: int, action: Any) -> threading.Thread:
    """Do something once so many steps are logged."""

    def watch() -> None:
        path = Path(folder) / "metrics.jsonl"
        while not path.is_file() or path.read_text().count("\n") < step:
            time.sleep(0.02)
        action()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def a_worker() -> int:
    """The process of a worker that this process's own Ray started."""
    return max(pid for pid in grandchildren() if title(pid).startswith("ray::Worker.train"))


@pytest.mark.usefixtures("cluster")
def test_several_workers_learn_what_one_learns(rows: Path, long: bool) -> None:
    more = [{"shard": "trained"}, {"peft": "full"}, {"peft": "full", "workers": 4}, {"batch_size": 1}]
    for number, how in enumerate([{}, *(more if long else [])]):
        alone, expected = train(rows, run_dir=f"one-{number}", max_steps=14, **{k: v for k, v in how.items() if k in SMALL})
        report, losses = train(rows, run_dir=f"many-{number}", max_steps=14, **{**TWO, **how})
        assert losses == pytest.approx(expected, abs=1e-4), how
        assert max(expected) - min(expected) > 0.1
        assert report["validation"] == pytest.approx(alone["validation"], abs=1e-4)
        for key in ("tokens", "steps", "supervised_tokens", "trained_parameters"):
            assert report[key] == alone[key]
        assert Path(report["artefact"]).is_dir()


@pytest.mark.usefixtures("cluster")
def test_a_run_goes_from_one_worker_to_two_and_back(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, expected = train(rows, run_dir="straight", max_steps=150, evaluations=0)
    command = ["tune", str(rows), "--run_dir", "run", "--max_steps", "150"]
    command += [word for key, value in {**SMALL, "evaluations": 0}.items() for word in (f"--{key}", str(value))]
    reached = []
    for step, where in ((5, []), (20, ["--engine", "ray", "--workers", "2"])):
        at_step("run", step, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert cli.main([*command, *where]) == 143, capsys.readouterr().err
        reached.append(len(logged("run")))
    assert 5 <= reached[0] < reached[1] < 150
    assert cli.main(command) == 0
    assert logged("run") == pytest.approx(expected, abs=1e-4)


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_is_replaced_without_a_person(rows: Path, capfd: pytest.CaptureFixture[str]) -> None:
    _, expected = train(rows, run_dir="straight", max_steps=60, evaluations=0)
    at_step("run", 20, lambda: os.kill(a_worker(), signal.SIGKILL))
    _, losses = train(rows, run_dir="run", max_steps=60, evaluations=0, save_steps=10, **TWO, overwrite=True)
    assert losses == pytest.approx(expected, abs=1e-4)
    said = capfd.readouterr().err
    assert "was lost: its process died; starting again from the newest checkpoint (1 of 3 restarts)" in said


@pytest.mark.usefixtures("cluster")
def test_losses_without_end_are_named_and_end(here: Path, long: bool) -> None:
    def die(settings: dict[str, Any]) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGKILL)
        return {}

    restarts = 2 if long else 0
    settings = {"workers": 2, "threads": 1, "address": None, "restarts": restarts, "shard": "all", "run_dir": str(here)}
    with pytest.raises(WorkFailed, match=rf"lost {restarts + 1} times: worker \d was lost: its process died") as raised:
        engine.launch(die, settings)
    assert "newest checkpoint" in raised.value.fix


@pytest.mark.usefixtures("cluster")
def test_a_mistake_of_the_user_is_told_as_by_one_worker(rows: Path) -> None:
    with pytest.raises(UserError, match="longer than max_length = 5"):
        train(rows, run_dir="run", max_steps=2, max_length=5, **TWO)


@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_is_too_small_says_so(rows: Path) -> None:
    with pytest.raises(UserError, match="no room for 64 workers"):
        train(rows, run_dir="run", engine="ray", workers=64)


def test_without_ray_one_line_names_the_extra(
    rows: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["tune", str(rows), "--model", "toy-llama", "--engine", "ray", "--workers", "2"]) == 2
    assert capsys.readouterr().err == "error: several workers need Ray, which is not installed: pip install 'tunesmith[ray]'\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--workers", "2"], "workers needs --engine ray"), (["--engine", "rai"], "Did you mean 'ray'?")],
)
def test_a_setting_that_would_do_nothing_is_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", "rows.jsonl", "--model", "toy-llama", *words]) == 2
    assert told in capsys.readouterr().err
