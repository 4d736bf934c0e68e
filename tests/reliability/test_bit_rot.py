"""Flipped bits and cut files, spread over everything a checkpoint is made of: none loads, the one before does, and it is said."""

import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from forkserver import Server
from test_kill_anywhere import COMMON, METHODS, outcome

from tunesmith.train import checkpoint


@pytest.fixture(scope="module")
def trained(server: Server, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    done = server.run(folder, "tune", str(rows), *COMMON, *METHODS["lora"])
    assert done["code"] == 0, done["err"]
    return folder


def content(found: Any) -> tuple[int, Any, Any]:
    """What was loaded, as something that compares by bits."""
    assert found
    step, groups, state = found
    return step, state, {(g, n): (t.dtype, t.shape, t.reshape(-1).view(torch.uint8).numpy().tobytes())
                         for g, ts in groups.items() for n, t in ts.items()}  # fmt: skip


def damages(chance: random.Random, size: int, kind: str) -> tuple[int, int]:
    """Where, and which bit; files of a kilobyte get as many as files of a megabyte."""
    return chance.randrange(size), 1 << chance.randrange(8) if kind == "bit" else 0


@pytest.mark.parametrize(("kind", "many", "few"), [("bit", 10_000, 400), ("cut", 1_000, 100)])
def test_nothing_damaged_is_ever_loaded(
    trained: Path, kind: str, many: int, few: int, full: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trained / "run" / "checkpoints"
    newest = max(folder.iterdir())
    files = sorted(newest.iterdir())
    assert [f.name for f in files] == ["MANIFEST.json", "best.safetensors", "optimizer.safetensors", "state.json"]
    whole = content(checkpoint.latest(folder))
    newest.rename(trained / "aside")
    expected = content(checkpoint.latest(folder))
    (trained / "aside").rename(newest)
    assert (whole[0], expected[0]) == (18, 16)
    assert whole[2] != expected[2]
    chance, trials = random.Random(kind), many if full else few
    capsys.readouterr()
    for trial in range(trials):
        path = files[trial % len(files)]
        original = path.read_bytes()
        at, bit = damages(chance, len(original), kind)
        if kind == "cut" and trial < len(files):
            at = len(original) - 1  # only the last byte is lost
        spoiled = original[:at] if kind == "cut" else original[:at] + bytes([original[at] ^ bit]) + original[at + 1 :]
        path.write_bytes(spoiled)
        found = checkpoint.latest(folder)
        path.write_bytes(original)
        what = f"{kind} {path.name} byte {at} bit {bit}"
        assert content(found) == expected, what
        assert capsys.readouterr().err.startswith(f"checkpoint {newest.name} is passed over: "), what
    # The control: what was put back is whole again.
    assert content(checkpoint.latest(folder)) == whole
    assert not capsys.readouterr().err
    with capsys.disabled():
        print(f"\n{trials} x {kind}: 0 loaded, {trials} times the one before, {trials} times said")  # noqa: T201


def test_every_bit_of_a_manifest_counts(trained: Path, full: bool) -> None:
    folder = trained / "run" / "checkpoints"
    path = sorted(folder.iterdir())[-1] / "MANIFEST.json"
    original = path.read_bytes()
    for place in range(0, 8 * len(original), 1 if full else 23):
        path.write_bytes(bytes(b ^ (1 << place % 8 if i == place // 8 else 0) for i, b in enumerate(original)))
        assert (checkpoint.latest(folder) or (0,))[0] == 16, place
    path.write_bytes(original)


def test_a_run_goes_on_from_the_one_before_the_damaged_to_the_same_bits(
    trained: Path, server: Server, rows: Path, tmp_path: Path
) -> None:
    command = ["tune", str(rows), *COMMON, *METHODS["lora"]]
    folder = tmp_path / "a"
    for die_at in range(150, 1000, 20):  # a kill that leaves two checkpoints and work to do
        assert server.run(folder, *command, die_at=die_at)["code"] == -9
        if len(list((folder / "run" / "checkpoints").glob("step-*"))) == 2:
            break
    before, newest = sorted((folder / "run" / "checkpoints").glob("step-*"))
    os.truncate(newest / "optimizer.safetensors", 1000)
    done = server.run(folder, *command)
    assert done["code"] == 0, done["err"]
    assert f"checkpoint {newest.name} is passed over: optimizer.safetensors has changed" in done["err"]
    assert f"going on after step {int(before.name[-8:])} of 18" in done["err"]
    assert outcome(folder) == outcome(trained)
