"""`ladder --engine ray`: routes side by side give what they give one after another, and survive what happens to them."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tickets import SMALL, write_task

from processes import grandchildren, title
from tunesmith import cli
from tunesmith.core.config import validate
from tunesmith.core.errors import UserError
from tunesmith.evaluate.results import load
from tunesmith.recipes import ladder
from tunesmith.recipes._ladder.config import LadderConfig
from tunesmith.recipes._ladder.orchestrate import assignment_of, folder_of
from tunesmith.recipes._ladder.side_by_side import climb_side_by_side
from tunesmith.train.engines import ray as engine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray of our own with room for two routes."""
    pytest.importorskip("ray", reason="needs the optional package ray")
    with engine.cluster(None, 2) as ray:
        yield ray


def climb(task: Path, folder: Path, **how: Any) -> dict[str, Any]:
    """Climb two routes and no baseline."""
    settings = {**SMALL, "routes": ["zero-shot", "lora:rank=2"], "baselines": ["majority"], **how}
    return ladder.run(ladder.Config(task=str(task), run_dir=str(folder), **settings))


def routes_at_work() -> list[int]:
    """The processes below this one that climb a route now."""
    return [pid for pid in grandchildren() if title(pid) in ("ray::zero-shot", "ray::LoRA r=2")]


@pytest.mark.usefixtures("cluster")
def test_side_by_side_is_one_after_another_even_when_a_route_is_killed(tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    climb(task, tmp_path / "one")
    killed: list[int] = []

    def kill() -> None:
        while not (at_work := routes_at_work()):
            time.sleep(0.05)
        time.sleep(1.0)
        killed.append(at_work[0])
        os.kill(at_work[0], signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    report = climb(task, tmp_path / "many", engine="ray")
    assert killed
    assert report["skipped"] == {}
    for label in ("zero-shot", "LoRA r=2"):
        one, many = (load(folder_of(tmp_path / name, label)) for name in ("one", "many"))
        assert one[1] == many[1]
        assert one[0].parameters == many[0].parameters


@pytest.mark.usefixtures("cluster")
def test_a_signal_stops_all_routes_and_nothing_counts_as_failed(tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")

    def stop() -> None:
        while not routes_at_work():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    words = [f"--{key}={value}" for key, value in SMALL.items()]
    words = [part for word in words for part in word.split("=")]
    command = ["ladder", str(task), *words, "--routes", "zero-shot,lora:rank=2", "--baselines", "none", "--engine", "ray"]
    assert cli.main([*command, "--run_dir", str(tmp_path / "run")]) == 143
    assert routes_at_work() == []
    assert list((tmp_path / "run").rglob("*.failure.json")) == []


@pytest.mark.usefixtures("cluster")
def test_a_route_that_fits_no_machine_is_not_begun(tmp_path: Path) -> None:
    config = LadderConfig(task=str(write_task(tmp_path / "task")), **SMALL)
    assignment = assignment_of(config, tmp_path / "run" / "zero-shot", {"name": "zero-shot"}, [])
    failures = climb_side_by_side({"zero-shot": assignment}, {"zero-shot": 1e6}, None)
    assert "needs about 1000000.0 GB" in failures["zero-shot"].message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "values", [{"engine": "ray", "target": 0.9}, {"engine": "ray", "budget_minutes": 3}, {"address": "auto"}]
)
def test_settings_that_would_do_nothing_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="engine ray"):
        validate(LadderConfig, {"task": "movies", **values}, "ladder")
