"""A number that is not finite, wherever it comes from, stops `tune` within a step: finite weights on disk, rows named, exit 1."""

import json
import math
import re
from pathlib import Path

import pytest
from forkserver import Server
from test_kill_anywhere import COMMON, METHODS, outcome
from trouble import finite_checkpoints

BAD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# Every step makes one loss, so the number of a loss is that of its step.
ONE_LOSS = ["--tokens_per_micro_batch", "100000"]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("where", ["data", "loss", "gradient", "weight"])
@pytest.mark.parametrize("method", METHODS)
def test_training_stops_before_the_damage(
    server: Server, rows: Path, tmp_path: Path, where: str, bad: str, method: str, full: bool
) -> None:
    command = ["tune", str(rows), *COMMON, *METHODS[method], *ONE_LOSS]
    sites = (1, 2, 5, 6, 7, 12, 18) if full else (6,)
    for at in sites if where != "data" else (0,):
        folder = tmp_path / str(at)
        done = server.run(folder, *command, "--json", poison=[where, at, BAD[bad]])
        assert done["code"] == 1, done["err"]
        report = json.loads(done["out"].splitlines()[-1])
        assert (report["status"], report["exit_code"]) == ("failed", 1)
        # A gradient may be clean while the weight is not; what is seen first is named.
        said = re.search(r"error: the (loss|gradient) of step (\d+) is (nan|-?inf)", done["err"])
        assert said, done["err"]
        step = int(said[2])
        assert step == at or where == "data"
        assert said[1] == "gradient" if where == "gradient" else said[1] in ("loss", "gradient")
        named = re.search(r"Rows: ([^\n;]*)", done["err"])
        assert named
        assert 1 <= len(named[1].split(", ")) <= 6
        logged = [json.loads(line) for line in Path(folder, "run", "metrics.jsonl").read_text().splitlines()] if step > 1 else []
        assert [row["step"] for row in logged] == list(range(1, step))
        assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in logged)
        saved = finite_checkpoints(folder / "run" / "checkpoints", tmp_path / f"alone-{at}")
        if where == "weight":
            assert "was not finite before this step, so nothing was saved" in done["err"]
            assert all(int(name[-8:]) < step for name in saved)
        else:
            assert int(saved[-1][-8:]) == step - 1
        assert not (folder / "run" / "adapter").exists()
        assert not (folder / "run" / "model").exists()


@pytest.mark.parametrize("where", ["loss", "gradient", "weight"])
def test_once_the_cause_is_gone_the_run_ends_with_the_same_bits(server: Server, rows: Path, tmp_path: Path, where: str) -> None:
    command = ["tune", str(rows), *COMMON, *METHODS["lora"], *ONE_LOSS]
    assert server.run(tmp_path / "straight", *command)["code"] == 0
    assert server.run(tmp_path / "ill", *command, poison=[where, 8, math.nan])["code"] == 1
    again = server.run(tmp_path / "ill", *command)
    assert again["code"] == 0, again["err"]
    assert f"going on after step {6 if where == 'weight' else 7} of 18" in again["err"]
    assert outcome(tmp_path / "ill") == outcome(tmp_path / "straight")


def test_the_row_is_named(server: Server, rows: Path, tmp_path: Path) -> None:
    # With a row a micro-batch exactly one row is to blame, and it is the same one whatever the order.
    command = ["tune", str(rows), *COMMON, *METHODS["lora"], "--tokens_per_micro_batch", "1"]
    named = set()
    for seed in ("0", "1"):
        done = server.run(tmp_path / seed, *command, "--seed", seed, "--validation_rows", "0", poison=["data", 0, math.nan])
        assert done["code"] == 1
        named.add((re.search(r"Rows: ([^\n;]*)", done["err"]) or [""])[1])
    assert len(named) == 1
    assert "," not in named.pop()
