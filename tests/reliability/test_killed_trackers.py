"""`tunesmith tune --report_to ...` killed again and again: at the end every tracker has every step once."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from forkserver import Server

STEPS = 40
COMMAND = [
    "--model", "toy-llama", "--run_dir", "run", "--batch_size", "2", "--max_steps", str(STEPS), "--save_steps", "4",
    "--threads", "1", "--guard", "false", "--peft.rank", "2", "--report_to", "tensorboard,trackio",
]  # fmt: skip


def test_killed_trackers_hold_what_the_log_holds(server: Server, rows: Path, tmp_path: Path, kills: int) -> None:
    pytest.importorskip("trackio")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from trackio.sqlite_storage import SQLiteStorage

    straight = server.run(tmp_path / "straight", "tune", str(rows), *COMMAND)
    assert straight["code"] == 0, straight["err"]
    chance, folder, begun = random.Random(0), tmp_path / "killed", 0
    for number in range(kills):
        how: dict[str, Any] = {"die_after": chance.uniform(0.2, 0.9) * straight["seconds"]}
        if number % 2:
            how = {"die_at": chance.randrange(1, straight["operations"])}
        done = server.run(folder, "tune", str(rows), *COMMAND, **how)
        assert done["code"] in (0, -9), done["err"]
        assert "WARNING" not in done["err"]
        begun += (folder / "run" / "tensorboard").is_dir()
    assert begun > 1
    done = server.run(folder, "tune", str(rows), *COMMAND)
    assert done["code"] == 0, done["err"]
    log = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(1, STEPS + 1))
    events = accumulator.EventAccumulator(str(folder / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [e.step for e in events.Scalars("train/loss")] == list(range(1, STEPS + 1))
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx([row["loss"] for row in log], rel=1e-6)
    (run,) = [r for r in SQLiteStorage.get_run_records("tunesmith") if r["name"] == "killed/run"]
    kept = SQLiteStorage.get_logs("tunesmith", "killed/run", run_id=run["id"])
    assert [(row["step"], row["train/loss"]) for row in kept] == [(row["step"], row["loss"]) for row in log]
