"""`tunesmith tune` killed at any file operation or moment, or asked to stop, goes on by the same command to the same bits."""

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from forkserver import Server

from tunesmith.core.files import sha256

COMMON = [
    "--model", "toy-llama", "--run_dir", "run", "--batch_size", "2", "--gradient_accumulation_steps", "3", "--epochs", "3",
    "--save_steps", "2", "--evaluations", "4", "--learning_rate", "3e-3", "--threads", "1", "--guard", "false",
]  # fmt: skip
METHODS = {
    "lora": ["--peft.rank", "4", "--peft.dropout", "0.2"],
    "full": ["--peft", "full", "--dtype", "bf16"],
}


def outcome(folder: Path) -> dict[str, str]:
    """SHA-256 of everything that was made: the artefact's files, and what the last checkpoint holds of optimizer and best."""
    run = folder / "run"
    saved = sorted((run / "checkpoints").glob("step-*"))[-1]
    made = [*(run / "adapter").glob("*"), *(run / "model").glob("*"), *saved.glob("*.safetensors")]
    return {path.name: sha256(path) for path in made}


def orphans(folder: Path) -> list[Path]:
    """Stages that a killed save left behind."""
    return list((folder / "run" / "checkpoints").glob(".step-*.tmp-*"))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("by", ["operation", "time"])
def test_killed_and_resumed_is_straight_and_no_cold_start(
    server: Server, rows: Path, tmp_path: Path, method: str, by: str, kills: int
) -> None:
    command = ["tune", str(rows), *COMMON, *METHODS[method]]
    straight = server.run(tmp_path / "straight", *command)
    assert straight["code"] == 0, straight["err"]
    expected = outcome(tmp_path / "straight")
    assert {"optimizer.safetensors", "best.safetensors", "MANIFEST.json"} <= set(expected)
    chance, killed, torn, folder, lives, finished = random.Random(f"{method} {by}"), 0, 0, tmp_path / "killed", 0, 0
    while killed < kills or lives:
        how: dict[str, Any] = {}
        if killed < kills and by == "operation":
            how["die_at"] = chance.randrange(1, straight["operations"] // 3)
        elif killed < kills:
            how["die_after"] = chance.uniform(0.0, straight["seconds"] * 0.6)
        done = server.run(folder, *command, **how)
        assert done["code"] in (0, -9), done["err"]
        if done["code"] == -9:
            killed, lives, torn = killed + 1, lives + 1, torn + bool(orphans(folder))
            continue
        assert outcome(folder) == expected
        assert not orphans(folder)
        logged = [json.loads(line)["step"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
        assert logged == list(range(1, 19))
        shutil.rmtree(folder)
        lives, finished = 0, finished + 1
    assert killed == kills
    assert finished
    if by == "operation":
        assert torn, "no kill fell into a save"
    server.run(tmp_path / "cold", *command, "--seed", "1")
    cold = outcome(tmp_path / "cold")
    assert cold["optimizer.safetensors"] != expected["optimizer.safetensors"]
    assert cold["best.safetensors"] != expected["best.safetensors"]


def test_a_process_of_its_own_ends_with_the_same_bits(server: Server, rows: Path, tmp_path: Path) -> None:
    command = ["tune", str(rows), *COMMON, *METHODS["lora"]]
    assert server.run(tmp_path / "forked", *command)["code"] == 0
    assert server.run(tmp_path / "own", *command, die_at=60)["code"] == -9
    done = subprocess.run([sys.executable, "-m", "tunesmith", *command], cwd=tmp_path / "own", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stderr
    assert outcome(tmp_path / "own") == outcome(tmp_path / "forked")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_says_so(server: Server, rows: Path, tmp_path: Path, number: int, code: int) -> None:
    command = ["tune", str(rows), *COMMON, *METHODS["lora"], "--epochs", "40", "--save_steps", "1000", "--json"]
    stopped = server.run(tmp_path / "a", *command, signal=[int(number), 7])
    assert stopped["code"] == code, stopped["err"]
    steps = (tmp_path / "a" / "run" / "metrics.jsonl").read_text().count("\n")
    assert 7 <= steps < 240
    assert [p.name for p in (tmp_path / "a" / "run" / "checkpoints").iterdir()] == [f"step-{steps:08d}"]
    assert f"stopped after step {steps}; everything is saved" in stopped["err"]
    assert "The same command continues" in stopped["err"]
    report = json.loads(stopped["out"].splitlines()[-1])
    assert (report["status"], report["exit_code"]) == ("stopped", code)
    assert not (tmp_path / "a" / "run" / "adapter").exists()
    goes_on = server.run(tmp_path / "a", *command)
    assert goes_on["code"] == 0
    assert f"going on after step {steps} of 240" in goes_on["err"]
    assert server.run(tmp_path / "b", *command)["code"] == 0
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")
