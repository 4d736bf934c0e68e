"""`kill -9` at ten moments, resumed each time by the same command: the weights are those of a run never killed."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ARGUMENTS = [
    "--model", "toy-llama", "--peft", "lora:rank=4,dropout=0.2", "--batch_size", "4", "--gradient_accumulation_steps", "2",
    "--epochs", "5", "--save_steps", "3", "--validation_rows", "8", "--threads", "1", "--learning_rate", "0.01",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety-six rows of prompt and completion."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    lines = [{"prompt": f"{i} plus {i % 7} is", "completion": f" {i + i % 7}"} for i in range(96)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _start(rows: Path, run_dir: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tunesmith", "tune", str(rows), "--run_dir", str(run_dir), *ARGUMENTS, *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _weights(run_dir: Path) -> str:
    return hashlib.sha256((run_dir / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


def _steps(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0


def test_ten_kills_leave_the_same_weights(rows: Path, tmp_path: Path) -> None:
    """Uninterrupted == killed ten times and resumed; a run from another seed differs."""
    straight = _start(rows, tmp_path / "straight")
    cold = _start(rows, tmp_path / "cold", "--seed", "1")
    for process in (straight, cold):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    total = _steps(tmp_path / "straight")
    generator = random.Random(0)
    killed = 0
    moments = sorted(generator.sample(range(1, total), 10))
    for moment in moments:
        process = _start(rows, tmp_path / "killed")
        deadline = time.monotonic() + 120
        while _steps(tmp_path / "killed") < moment and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(generator.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
    final = _start(rows, tmp_path / "killed")
    _, errors = final.communicate(timeout=300)
    assert final.returncode == 0, errors
    assert killed >= 8, "the runs ended before they could be killed"
    assert _weights(tmp_path / "killed") == _weights(tmp_path / "straight")
    assert _weights(tmp_path / "cold") != _weights(tmp_path / "straight")


def test_sigterm_finishes_the_step_and_saves(rows: Path, tmp_path: Path) -> None:
    """Exit code 143, a checkpoint on disk, and the same command goes on to the same weights."""
    process = _start(rows, tmp_path / "run", "--epochs", "12")
    while _steps(tmp_path / "run") < 5 and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    again = _start(rows, tmp_path / "run", "--epochs", "12")
    _, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    assert "going on after step" in errors
