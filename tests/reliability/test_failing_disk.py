"""Every write, flush, rename, open and mkdir of a save fails in turn: training goes on, says so, nothing half-written loads."""

import os
from pathlib import Path

import pytest
import torch
from forkserver import Server
from test_kill_anywhere import COMMON, METHODS, outcome
from trouble import CALLS, KINDS, Disk

from tunesmith.train import checkpoint

EVERY = [(call, kind) for call in CALLS for kind in KINDS if kind != "short" or call == "write"]


def tensors(step: int) -> dict[str, dict[str, torch.Tensor]]:
    """Groups of several files, with a value that tells their step."""
    group = {str(i): torch.full((50,), float(step)) for i in range(6)}
    return {"optimizer": group, "best": {"a": torch.full((3,), float(step)).bfloat16()}}


def loaded(folder: Path) -> int:
    """The step of the newest checkpoint, after looking at every number in it."""
    found = checkpoint.latest(folder)
    assert found
    step, groups, state = found
    assert state == {"step": step}
    assert {n: len(g) for n, g in groups.items()} == {"optimizer": 6, "best": 1}
    assert all(bool((t == step).all()) for group in groups.values() for t in group.values())
    return step


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from-then-on"])
@pytest.mark.parametrize(("call", "kind"), EVERY)
def test_every_call_of_a_save_fails_in_turn(
    tmp_path: Path, call: str, kind: str, lasting: bool, full: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(checkpoint, "_PART_BYTES", 300 if full else 700)  # six or two files of optimizer state
    at, survived = 0, 0
    while True:
        at += 1
        folder = tmp_path / str(at) / "checkpoints"
        for step in (1, 2):
            assert checkpoint.save(folder, step, tensors(step), {"step": step})
        with Disk(str(folder), call, at, kind, lasting).between() as disk:
            saved = checkpoint.save(folder, 3, tensors(3), {"step": 3})
        said = capsys.readouterr().err
        # A disk on which nothing opens any more cannot take back a checkpoint whose very last flush failed; it is whole.
        stuck = call == "open" and lasting and (folder / "step-00000003").is_dir()
        assert loaded(folder) == (3 if saved or stuck else 2)
        if saved:
            assert not said
        else:
            assert said.startswith("WARNING: checkpoint 3 could not be written (")
            assert os.strerror(KINDS[kind]) in said
            assert stuck or sorted(p.name for p in folder.glob("step-*")) == ["step-00000001", "step-00000002"]
            survived += 1
        # Short writes are no failures: the rest is written. Some folders need no making, some files no removing.
        assert bool(saved) == (not disk.failed or kind == "short") or call in ("open", "mkdir"), at
        # A disk that works again takes the next checkpoint.
        assert checkpoint.save(folder, 4, tensors(4), {"step": 4})
        assert loaded(folder) == 4
        assert not list(folder.glob(".*"))
        if not disk.failed:
            break
    assert at > 3 or call in ("replace", "mkdir")
    assert (survived > 0) == (kind != "short")


def test_training_goes_on_over_a_failing_disk(server: Server, rows: Path, tmp_path: Path, full: bool) -> None:
    command = ["tune", str(rows), *COMMON, *METHODS["lora"]]
    watched = {"below": "/run/checkpoints"}
    straight = server.run(tmp_path / "straight", *command, disk=watched)
    assert straight["code"] == 0, straight["err"]
    assert "WARNING" not in straight["err"]
    expected, calls = outcome(tmp_path / "straight"), straight["calls"]
    assert calls["fsync"] > 30
    warned = 0
    for number, (call, kind) in enumerate(EVERY):
        # The last save counts in the comparison, so it is left whole.
        last = calls[call] * 7 // 9
        for at in range(1 + number % 3, last, 1 + last // (40 if full else 1)):
            folder = tmp_path / f"{call}-{kind}-{at}"
            done = server.run(folder, *command, disk={**watched, "call": call, "at": at, "kind": kind})
            assert done["code"] == 0, done["err"]
            assert done["failed"] == 1
            assert outcome(folder) == expected
            warned += done["err"].count("could not be written")
            assert done["err"].count("could not be written") == (kind != "short") or call in ("open", "mkdir")
    assert warned


def test_a_disk_that_fails_for_good_costs_the_checkpoints_and_not_the_training(
    server: Server, rows: Path, tmp_path: Path
) -> None:
    command = ["tune", str(rows), *COMMON, *METHODS["lora"]]
    assert server.run(tmp_path / "straight", *command)["code"] == 0
    disk = {"below": "/run/checkpoints", "call": "fsync", "at": 20, "kind": "EIO", "lasting": True}
    done = server.run(tmp_path / "failing", *command, disk=disk)
    assert done["code"] == 0, done["err"]
    assert done["err"].count("could not be written (") >= 5
    adapters = [(tmp_path / f / "run" / "adapter" / "adapter_model.safetensors").read_bytes() for f in ("straight", "failing")]
    assert adapters[0] == adapters[1]
    # What was saved before still loads, and going on from there ends with the same bits.
    step = (checkpoint.latest(tmp_path / "failing" / "run" / "checkpoints") or (0,))[0]
    assert 0 < step < 18
    again = server.run(tmp_path / "failing", *command)
    assert f"going on after step {step} of 18" in again["err"]
    assert outcome(tmp_path / "failing") == outcome(tmp_path / "straight")
