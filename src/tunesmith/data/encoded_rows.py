"""Encoded rows kept on disk, so that what fits on the disk can be trained on: a few bytes of memory a row, none a token."""

from __future__ import annotations

import hashlib
import heapq
import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.errors import WorkFailed
from tunesmith.core.records import Encoded, MadeRows

_COUNTS = 1 << 31
_BUFFER = 1 << 20


class EncodedRows(MadeRows):
    """Rows in one temporary file without a name, which the operating system removes however the process ends.

    A token takes four bytes: its id, and whether something is predicted there in the highest bit. A target that is not the
    row's own token takes eight more.

    Args:
        rows: read once, one after the other; the targets of all are whole numbers, or those of all are not.

    Raises:
        WorkFailed: the disk is full.
    """

    def __init__(self, rows: Iterable[Encoded]) -> None:
        self._disk = _Disk()
        starts, lengths, targets, names = array("Q"), array("I"), array("I"), array("H")
        position, self._kind = 0, np.dtype(np.int64)
        try:
            for row in rows:
                name = row.example_id.encode()[-65_535:]
                starts.append(position)
                lengths.append(len(row))
                # One more than there are, for "none" is not "the row's own tokens".
                targets.append(0 if row.targets is None else 1 + len(row.targets))
                self._kind = np.dtype(np.float64) if any(isinstance(t, float) for t in row.targets or ()) else self._kind
                names.append(len(name))
                position += self._disk.file.write(_packed(row) + name)
            self._disk.file.flush()
        except OSError as error:
            raise WorkFailed(f"the encoded rows cannot be kept on disk: {error}", "Set TMPDIR to a folder with room.") from None
        self._starts, self._names = np.frombuffer(starts, np.uint64), np.frombuffer(names, np.uint16)
        self._targets = np.frombuffer(targets, np.uint32)
        self.lengths: NDArray[np.int64] = np.frombuffer(lengths, np.uint32).astype(np.int64)

    def select(self, numbers: Sequence[int] | NDArray[Any]) -> EncodedRows:
        """Return some of the rows, in the order of their numbers; nothing is copied."""
        chosen = object.__new__(EncodedRows)
        index = np.asarray(numbers, np.int64)
        chosen._disk, chosen._kind = self._disk, self._kind
        chosen._starts, chosen._names, chosen.lengths = self._starts[index], self._names[index], self.lengths[index]
        chosen._targets = self._targets[index]
        return chosen

    def row(self, number: int) -> Encoded:
        """Read a row from the file."""
        tokens, held = int(self.lengths[number]), int(self._targets[number])
        middle = 4 * tokens + 8 * max(held - 1, 0)
        content = os.pread(self._disk.file.fileno(), middle + int(self._names[number]), int(self._starts[number]))
        packed = np.frombuffer(content, np.uint32, tokens)
        ids, mask = (packed & ~np.uint32(_COUNTS)).tolist(), (packed >= _COUNTS).tolist()
        targets = tuple(np.frombuffer(content, self._kind, held - 1, 4 * tokens).tolist()) if held else None
        return Encoded(tuple(ids), tuple(mask), content[middle:].decode(errors="replace"), targets)

    def __len__(self) -> int:
        return len(self.lengths)

    def fingerprint(self) -> str:
        """Return a hash of all ids, masks and targets, in their order."""
        digest = hashlib.sha256(self.lengths.tobytes())
        for row in self:
            digest.update(_packed(row))
        return digest.hexdigest()


class _Disk:
    """The file of some rows, closed when the last of those who read it is gone."""

    def __init__(self) -> None:
        # /var/tmp is on a disk where /tmp may be in memory.
        folder = "/var/tmp" if os.access("/var/tmp", os.W_OK) and "TMPDIR" not in os.environ else None
        self.file = tempfile.TemporaryFile(dir=folder, buffering=_BUFFER)  # noqa: SIM115
        weakref.finalize(self, self.file.close)


def lengths_of(rows: Sequence[Encoded]) -> list[int]:
    """Return how many tokens each row has, without reading rows that know it."""
    return rows.lengths.tolist() if isinstance(rows, EncodedRows) else [len(row) for row in rows]


def longest_of(rows: Sequence[Encoded], count: int) -> list[Encoded]:
    """Return the longest rows, longest first, without reading the others."""
    lengths = lengths_of(rows)
    return [rows[i] for i in heapq.nlargest(count, range(len(lengths)), key=lengths.__getitem__)]


def _packed(row: Encoded) -> bytes:
    tokens = (np.array(row.ids, np.uint32) | np.array(row.loss_mask, np.uint32) << 31).tobytes()
    targets = row.targets or ()
    return tokens + np.array(targets, np.float64 if any(isinstance(t, float) for t in targets) else np.int64).tobytes()
