"""A disk that is really full in the middle of a training: it goes on, says so, loses nothing, and saves again."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forkserver import Server
from test_kill_anywhere import COMMON, METHODS, outcome

from tunesmith.train import checkpoint

ONE_LOSS = ["--tokens_per_micro_batch", "100000"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder; its `run` is a disk of eight megabytes, where this process may mount one."""
    mine = tmp_path / "disk"
    (mine / "run").mkdir(parents=True)
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", mine / "run"], capture_output=True)
        is_mounted = mounted.returncode == 0
    except FileNotFoundError:
        is_mounted = False
    (mine / ("mounted" if is_mounted else "unmounted")).touch()
    yield mine
    if is_mounted:
        subprocess.run(["umount", "--lazy", mine / "run"], check=True)


def logged(folder: Path) -> list[int]:
    """The steps in metrics.jsonl."""
    return [json.loads(line)["step"] for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def really(how: str, disk: Path) -> str:
    """Without a disk of one's own, the system's limit on the size of files stands in for its end."""
    return how if (disk / "mounted").exists() else "limit"


@pytest.mark.parametrize("how", ["brim", "nearly", "limit"])
@pytest.mark.parametrize("method", METHODS)
def test_training_goes_on_and_the_next_save_succeeds(
    server: Server, rows: Path, tmp_path: Path, disk: Path, how: str, method: str, full: bool
) -> None:
    command = ["tune", str(rows), *COMMON, *METHODS[method], *ONE_LOSS]
    assert server.run(tmp_path / "straight", *command)["code"] == 0
    for first, last in ((3, 6), (8, 9), (8, 11), (10, 18)) if full else ((8, 11),):
        done = server.run(disk, *command, "--overwrite", full_disk=[really(how, disk), first, last, False])
        assert done["code"] == 0, done["err"]
        missed = [step for step in range(2, 19, 2) if first <= step < last]
        for step in missed:
            assert f"WARNING: checkpoint {step} could not be written (" in done["err"]
        assert done["err"].count("could not be written (") == len(missed)
        assert logged(disk) == list(range(1, 19))
        assert outcome(disk) == outcome(tmp_path / "straight")
        kept = sorted(path.name for path in (disk / "run" / "checkpoints").iterdir())
        assert kept == [f"step-{step:08d}" for step in ([16, 18] if last < 17 else [8, 18])]
        if (
            how == "nearly" and first >= 8 and (disk / "mounted").exists()
        ):  # the room was looked at, and the write failed all the same
            assert "MB needed" not in done["err"]


@pytest.mark.parametrize("how", ["brim", "limit"])
def test_killed_on_a_full_disk_and_resumed_with_room(
    server: Server, rows: Path, tmp_path: Path, disk: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["tune", str(rows), *COMMON, *METHODS["lora"], *ONE_LOSS]
    assert server.run(tmp_path / "straight", *command)["code"] == 0
    assert server.run(disk, *command, full_disk=[really(how, disk), 8, 13, True])["code"] == -9
    assert (checkpoint.latest(disk / "run" / "checkpoints") or (0,))[0] == 6
    assert not capsys.readouterr().err  # nothing had to be passed over
    (disk / "run" / "ballast").unlink(missing_ok=True)
    again = server.run(disk, *command)
    assert again["code"] == 0, again["err"]
    assert "going on after step 6 of 18" in again["err"]
    assert outcome(disk) == outcome(tmp_path / "straight")
    assert logged(disk) == list(range(1, 19))


def test_a_log_on_a_full_disk_does_not_end_a_training() -> None:
    # As in `tunesmith tune ... 2> log`: /dev/full refuses every byte.
    code = "from tunesmith.core.progress import Progress, say\nsay('a')\nwith Progress('t', 2, 'steps') as p: p.advance(1)\n"
    with open("/dev/full", "w") as log:
        done = subprocess.run([sys.executable, "-c", f"{code}print('done')"], stderr=log, stdout=subprocess.PIPE, text=True)
    assert done.stdout == "done\n"
