"""Trouble to train under: calls into the system that fail, and numbers that are not finite."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

CALLS = ("open", "write", "fsync", "replace", "mkdir")
KINDS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "short": 0}


class Disk:
    """Stands between this process and the real disk: the `at`-th call of a kind below a folder goes wrong.

    Attributes:
        calls: how often each was made below the folder. failed: how many went wrong.
    """

    def __init__(self, below: str, call: str = "", at: int = 0, kind: str = "EIO", lasting: bool = False) -> None:
        self.below, self.call, self.at, self.kind, self.lasting = below, call, at, kind, lasting
        self.calls, self.failed = dict.fromkeys(CALLS, 0), 0

    @contextmanager
    def between(self) -> Iterator[Disk]:
        """Put it there for a while."""
        real = {name: getattr(os, name) for name in CALLS}
        patches = [mock.patch.object(os, name, self._stand_in(name, real[name])) for name in CALLS]
        for patch in patches:
            patch.start()
        try:
            yield self
        finally:
            for patch in patches:
                patch.stop()

    def _stand_in(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *rest: Any, **named: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else os.path.abspath(first)
            if self.below not in path:
                return real(first, *rest, **named)
            self.calls[name] += 1
            count = self.calls[name]
            if name != self.call or not (count == self.at or (self.lasting and count > self.at)):
                return real(first, *rest, **named)
            self.failed += 1
            if self.kind != "short":
                raise OSError(KINDS[self.kind], os.strerror(KINDS[self.kind]), path)
            # Less than was given is taken, and that is said: no error, but a caller that does not look loses bytes.
            return real(first, bytes(rest[0])[: max(len(rest[0]) // 2, 1)])

        return call


def poisoned(fit: Callable[..., Any], where: str, at: int, value: float) -> Callable[..., Any]:
    """Wrap `fit` so that a number which is not finite appears at the `at`-th loss: in "data", "loss", "gradient" or "weight"."""
    import torch

    def ill(training: Any, *rest: Any, **named: Any) -> Any:
        made, loss_of, data = 0, training.loss_of, training.data
        victim = next(iter(training.parameters.values()))

        def loss(batch: Any) -> Any:
            nonlocal made
            made += 1
            if where == "weight" and made == at:
                with torch.no_grad():
                    victim.view(-1)[0] = value
            nll, count = loss_of(batch)
            # The last row as it came from the file is the one with the bad number in it.
            if (where == "loss" and made == at) or (where == "data" and data[-1].example_id in batch.example_ids):
                nll = nll * value
            return nll, count

        if where == "gradient":
            victim.register_hook(lambda gradient: gradient * value if made == at else gradient)
        return fit(replace(training, loss_of=loss), *rest, **named)

    return ill


def filled(fit: Callable[..., Any], how: str, first: int, last: int, die: bool) -> Callable[..., Any]:
    """Wrap `fit` so that from loss `first` to loss `last` the disk is really full; then there is room again, or the process dies.

    Args:
        how: "brim" = not a byte is free; "nearly" = the tensors of a checkpoint fit and the rest of it does not; "limit" =
            the system refuses files of more than 4,000 bytes, where nobody may mount a disk of their own.
    """
    ballast = Path("run") / "ballast"

    def fill() -> None:
        if how == "limit":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, resource.RLIM_INFINITY))
            return
        newest = sorted(Path("run/checkpoints").glob("step-*"))[-1]
        leave = sum(p.stat().st_size // 4096 * 4096 for p in newest.glob("*.safetensors")) if how == "nearly" else 0
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        os.truncate(ballast, ballast.stat().st_size - leave)

    def free() -> None:
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ballast.unlink(missing_ok=True)

    def full(training: Any, *rest: Any, **named: Any) -> Any:
        made, loss_of = 0, training.loss_of

        def loss(batch: Any) -> Any:
            nonlocal made
            made += 1
            if made == first:
                fill()
            if made == last:
                free()
            return loss_of(batch)

        return fit(replace(training, loss_of=loss), *rest, **named)

    return full


def finite_checkpoints(folder: Path, scratch: Path) -> list[str]:
    """Load every checkpoint of a folder by itself; their names, after looking at every number in them."""
    import torch

    from tunesmith.train import checkpoint

    names = sorted(path.name for path in folder.glob("step-*"))
    for name in names:
        alone = scratch / name
        alone.mkdir(parents=True)
        (alone / name).symlink_to(folder / name)
        found = checkpoint.latest(alone)
        assert found, name
        assert all(bool(torch.isfinite(t).all()) for group in found[1].values() for t in group.values()), name
    return names
