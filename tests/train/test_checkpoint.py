"""Checkpoints are whole or absent, whatever the disk does; what is damaged is passed over and said."""

import errno
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.core import files
from tunesmith.train import checkpoint

STATE = {"step": 4, "losses": [1.5, 0.1], "best": None}


def tensors(seed: int, size: int = 40) -> dict[str, dict[str, torch.Tensor]]:
    """What a training would save."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "optimizer": {"weight/a": torch.randn(size, generator=generator), "step/a": torch.tensor(float(seed))},
        "best": {} if seed % 2 else {"a": torch.randn(3, 2, generator=generator).bfloat16()},
    }


def equal(a: dict[str, dict[str, torch.Tensor]], b: dict[str, dict[str, torch.Tensor]]) -> bool:
    """Whether groups of tensors are the same, bit for bit and in type."""
    return {g: {n: (t.dtype, t.tolist()) for n, t in ts.items()} for g, ts in a.items()} == {
        g: {n: (t.dtype, t.tolist()) for n, t in ts.items()} for g, ts in b.items()
    }


def names(folder: Path) -> list[str]:
    """Everything in a folder of checkpoints, hidden things too."""
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path / "none") is None
    path = checkpoint.save(tmp_path / "c", 4, tensors(4), STATE)
    assert path == tmp_path / "c" / "step-00000004"
    step, loaded, state = checkpoint.latest(tmp_path / "c") or (0, {}, {})
    assert (step, state) == (4, STATE)
    assert equal(loaded, tensors(4))
    assert not equal(loaded, tensors(6))
    assert all(not p.name.startswith(".") for p in (tmp_path / "c").rglob("*"))


def test_the_two_newest_are_kept_and_the_newest_wins(tmp_path: Path) -> None:
    for step in (9, 10, 100, 101):
        checkpoint.save(tmp_path, step, tensors(step), {"step": step})
    assert names(tmp_path) == ["step-00000100", "step-00000101"]
    step, loaded, _ = checkpoint.latest(tmp_path) or (0, {}, {})
    assert step == 101
    assert equal(loaded, tensors(101))


def test_a_checkpoint_that_stands_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = checkpoint.save(tmp_path, 5, tensors(5), STATE)
    monkeypatch.setattr(os, "write", fails("write"))
    assert checkpoint.save(tmp_path, 5, tensors(5), STATE) == first
    # The control: one that is damaged is written again, and here cannot be.
    (tmp_path / "step-00000005" / "state.json").unlink()
    assert checkpoint.save(tmp_path, 5, tensors(5), STATE) is None


def test_stages_that_a_killed_run_left_are_swept(tmp_path: Path) -> None:
    orphan = tmp_path / ".step-00000007.tmp-123"
    orphan.mkdir()
    (orphan / "optimizer.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) is None
    checkpoint.save(tmp_path, 8, tensors(8), STATE)
    assert names(tmp_path) == ["step-00000008"]


def damage(path: Path, kind: str, chance: random.Random) -> str:
    """Damage one file of a checkpoint; says what was done."""
    victim = chance.choice(sorted(p for p in path.iterdir() if p.stat().st_size))
    data = bytearray(victim.read_bytes())
    if kind == "missing":
        victim.unlink()
    elif kind == "truncated":
        victim.write_bytes(data[: chance.randrange(len(data))])
    elif kind == "grown":
        victim.write_bytes(data + b"\0")
    else:
        data[at := chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        return f"bit of byte {at} in {victim.name}" * bool(victim.write_bytes(data))
    return f"{kind} {victim.name}"


@pytest.mark.parametrize(("kind", "trials"), [("bit", 200), ("truncated", 50), ("missing", 12), ("grown", 12)])
def test_no_damage_goes_unseen(tmp_path: Path, kind: str, trials: int, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tmp_path / "whole"
    checkpoint.save(whole, 1, tensors(1), {"step": 1})
    checkpoint.save(whole, 2, tensors(2), {"step": 2})
    chance = random.Random(kind)
    for trial in range(trials):
        folder = tmp_path / str(trial)
        shutil.copytree(whole, folder)
        done = damage(folder / "step-00000002", kind, chance)
        step, loaded, state = checkpoint.latest(folder) or (0, {}, {})
        assert (step, state) == (1, {"step": 1}), done
        assert equal(loaded, tensors(1)), done
        assert "step-00000002 is passed over: " in capsys.readouterr().err
        shutil.rmtree(folder)


def test_what_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, step, tensors(step), {})
    newest = tmp_path / "step-00000002"
    (newest / "optimizer.safetensors").unlink()
    assert (checkpoint.latest(tmp_path) or (0,))[0] == 1
    assert capsys.readouterr().err == "checkpoint step-00000002 is passed over: optimizer.safetensors is missing\n"
    (newest / "MANIFEST.json").unlink()
    (tmp_path / "step-00000001" / "state.json").write_text("{}")
    assert checkpoint.latest(tmp_path) is None
    assert capsys.readouterr().err == (
        "checkpoint step-00000002 is passed over: it has no MANIFEST.json\n"
        "checkpoint step-00000001 is passed over: state.json has changed since it was written\n"
    )


def fails(name: str, at: int = 0, number: int = errno.ENOSPC, real: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A stand-in for a call into the system that fails the `at`-th time, as a full or broken disk would."""
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > at:
            raise OSError(number, os.strerror(number), name)
        return real(*arguments, **named) if real else None

    return call


CALLS = {
    "fsync": (os, "fsync"), "replace": (os, "replace"), "open": (os, "open"), "write": (os, "write"),
    "write_json": (files, "write_text"),
}  # fmt: skip


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("call", CALLS)
def test_every_call_may_fail_and_nothing_is_lost(
    tmp_path: Path, call: str, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    owner, name = CALLS[call]
    failures = 0
    for at in range(40):
        folder = tmp_path / str(at)
        checkpoint.save(folder, 1, tensors(1), {"step": 1})
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails(name, at, number, getattr(owner, name)))
            saved = checkpoint.save(folder, 2, tensors(2), {"step": 2})
        said = capsys.readouterr().err
        # What stands is whole: the new one (perhaps not flushed to the last directory entry) or the one before.
        step, loaded, _ = checkpoint.latest(folder) or (0, {}, {})
        assert equal(loaded, tensors(step))
        assert "step-00000001" in names(folder)
        if saved:
            assert (step, said) == (2, "")
            break
        failures += 1
        assert said.startswith("WARNING: checkpoint 2 could not be written")
        assert os.strerror(number) in said
        assert checkpoint.save(folder, 3, tensors(3), {"step": 3})  # the disk has space again
        assert (checkpoint.latest(folder) or (0,))[0] == 3
        assert not [n for n in names(folder) if n.startswith(".")]
    assert 1 <= failures < 40


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes: the system really refuses the write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_system_refuses_is_survived(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint.save(tmp_path, 1, tensors(1), {"step": 1})
    with small_disk(20_000):
        assert checkpoint.save(tmp_path, 2, tensors(2, size=100_000), {"step": 2}) is None
        assert checkpoint.save(tmp_path, 3, tensors(3), {"note": "x" * 30_000}) is None
    assert capsys.readouterr().err.count("could not be written") == 2
    assert names(tmp_path) == ["step-00000001"]
    # The control: it is the size and nothing else.
    assert checkpoint.save(tmp_path, 2, tensors(2, size=100_000), {"step": 2})


def test_a_save_that_does_not_read_back_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint.save(tmp_path, 1, tensors(1), {"step": 1})
    real = os.fsync

    def lossy(descriptor: int) -> None:  # the disk lies: what was flushed is not what it gives back
        real(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        if path.name == "optimizer.safetensors":
            path.write_bytes(path.read_bytes()[:-1] + b"?")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lossy)
        assert checkpoint.save(tmp_path, 2, tensors(2), {"step": 2}) is None
    assert "does not read back as written" in capsys.readouterr().err
    assert names(tmp_path) == ["step-00000001"]
    assert (checkpoint.latest(tmp_path) or (0,))[0] == 1


def test_damaged_checkpoints_of_later_steps_do_not_push_out_whole_ones(tmp_path: Path) -> None:
    for step in (1, 8):
        checkpoint.save(tmp_path, step, tensors(step), {"step": step})
    shutil.copytree(tmp_path / "step-00000008", tmp_path / "step-00000009")
    for step in (8, 9):
        (tmp_path / f"step-0000000{step}" / "state.json").write_text("rot")
    # A run that goes on from step 1 saves steps 2 and 3: with the highest numbers kept, nothing whole would be left.
    for step in (2, 3):
        assert checkpoint.save(tmp_path, step, tensors(step), {"step": step})
        assert (checkpoint.latest(tmp_path) or (0,))[0] == step
    assert names(tmp_path) == ["step-00000002", "step-00000003"]


def test_large_groups_are_cut_into_files_that_safetensors_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    monkeypatch.setattr(checkpoint, "_PART_BYTES", 1000)
    kinds = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    group = {f"a/{kind}": (torch.randn(3, 67) * 50).to(kind) for kind in (*kinds, torch.uint8, torch.bool)}
    group |= {"turned": torch.randn(4, 6).T, "empty": torch.zeros(0, 3), "one": torch.tensor(2.5), 'ö"': torch.ones(1)}
    folder = checkpoint.save(tmp_path, 1, {"optimizer": group, "best": {}}, {})
    assert folder
    files = sorted(folder.glob("optimizer*.safetensors"))
    assert len(files) > 4
    read = {name: tensor for path in files for name, tensor in load_file(path).items()}
    assert equal({"optimizer": read, "best": {}}, {"optimizer": group, "best": {}})
    assert equal((checkpoint.latest(tmp_path) or (0, {}))[1], {"optimizer": group, "best": {}})


def test_a_checkpoint_is_one_save_and_not_a_mixture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, seed in ((one, 2), (other, 4)):
        checkpoint.save(folder, 1, tensors(seed), {"from": seed})
        checkpoint.save(folder, 2, tensors(seed + 10), {"from": seed + 10})
    whole = tmp_path / "whole"
    shutil.copytree(one, whole)
    listed = sorted(p.name for p in (one / "step-00000002").iterdir())
    for source in (other / "step-00000002", other / "step-00000001", one / "step-00000001"):
        for chosen in range(1, 2 ** len(listed)):
            shutil.rmtree(one)
            shutil.copytree(whole, one)
            taken = {name for bit, name in enumerate(listed) if chosen >> bit & 1}
            for name in taken:
                shutil.copy(source / name, one / "step-00000002" / name)
            step, loaded, state = checkpoint.latest(one) or (0, {}, {})
            if taken == set(listed) and source == other / "step-00000002":
                assert (step, state) == (2, {"from": 14})  # all of another one: that is a copy and no mixture
            else:
                assert (step, state) == (1, {"from": 2}), (source, taken)
                assert equal(loaded, tensors(2))
    capsys.readouterr()


def test_a_file_beside_a_checkpoint_is_not_part_of_it(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    checkpoint.save(tmp_path, 1, tensors(1), {})
    save_file({"weight/a": torch.zeros(40)}, tmp_path / "step-00000001" / "optimizer.1.safetensors")
    assert equal((checkpoint.latest(tmp_path) or (0, {}))[1], tensors(1))


def test_a_disk_without_room_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    assert checkpoint.save(tmp_path, 1, tensors(1), {}) is None
    assert "No space left on device: 0.0 MB needed, 0.0 MB free" in capsys.readouterr().err
    assert names(tmp_path) == []


def test_nothing_in_the_package_pickles() -> None:
    import ast

    import tunesmith

    banned = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

    def uses(source: str) -> list[str]:
        found = []
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found += [a.name for a in node.names if a.name.split(".")[0] in banned]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in banned:
                found.append(node.module or "")
            elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "torch" and node.attr in ("save", "load"):
                found.append(f"torch.{node.attr}")
        return found

    sources = sorted(Path(tunesmith.__path__[0]).rglob("*.py"))
    assert len(sources) > 50
    assert {p.name: uses(p.read_text(encoding="utf-8")) for p in sources if uses(p.read_text(encoding="utf-8"))} == {}
    assert uses("import pickle\nfrom joblib import dump\nx = torch.load('a')") == ["pickle", "joblib", "torch.load"]
