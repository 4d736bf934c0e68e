"""Rows on disk read back as they were, leave nothing behind, and cost memory by the row and not by the token."""

import errno
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import WorkFailed
from tunesmith.core.records import Encoded
from tunesmith.data.encoded_rows import EncodedRows, lengths_of

ROWS = [
    Encoded((1, 2**31 - 1, 0), (True, True, False), "rows.jsonl:1"),
    Encoded((), (), ""),
    Encoded((7,) * 500, (False, True) * 250, "données.csv:2"),
]


def test_rows_read_back_as_they_were() -> None:
    rows = EncodedRows(iter(ROWS))
    assert list(rows) == ROWS
    assert rows[-1] == ROWS[-1]
    assert rows[1:] == ROWS[1:]
    assert lengths_of(rows) == lengths_of(ROWS) == [3, 0, 500]
    with pytest.raises(IndexError):
        rows[3]


def test_selections_share_the_file_and_outlive_the_whole() -> None:
    whole = EncodedRows(ROWS)
    chosen = whole.select([2, 0]).select([1, 0])
    del whole
    assert list(chosen) == [ROWS[0], ROWS[2]]
    assert list(chosen.select([])) == []


def test_the_fingerprint_is_of_ids_masks_and_order() -> None:
    rows = EncodedRows(ROWS)
    assert rows.fingerprint() == EncodedRows(ROWS).fingerprint()
    assert rows.fingerprint() == EncodedRows([Encoded(e.ids, e.loss_mask, "elsewhere") for e in ROWS]).fingerprint()
    others = [
        [Encoded(e.ids, e.loss_mask[::-1], e.example_id) for e in ROWS],
        [Encoded(e.ids[::-1], e.loss_mask, e.example_id) for e in ROWS],
        ROWS[::-1],
        ROWS[:2],
        [Encoded((1, 2**31 - 1), (True, True), ""), Encoded((0,), (False,), ""), *ROWS[1:]],
    ]
    assert len({rows.fingerprint(), *(EncodedRows(o).fingerprint() for o in others)}) == 6


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    rows = EncodedRows(ROWS)
    assert list(tmp_path.iterdir()) == []
    del rows
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    for _ in range(20):
        EncodedRows(ROWS).select([0])
    assert not before or len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, content: bytes) -> int:
            """As a disk without room."""
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None:
            """Nothing to close."""

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **how: Full())
    with pytest.raises(WorkFailed, match="No space left on device"):
        EncodedRows(ROWS)


PROGRAM = """
import sys
from tunesmith.core.records import Encoded
from tunesmith.data.encoded_rows import EncodedRows
from tunesmith.core.memory import resident_gb
def rows(count):
    for i in range(count):
        yield Encoded(tuple(range(i % 1000, i % 1000 + 1000)), (False,) * 500 + (True,) * 500, f"rows.jsonl:{i}")
small = EncodedRows(rows(10))
before = resident_gb()
if sys.argv[1] == "disk":
    large = EncodedRows(rows(20_000))
else:
    large = list(rows(2_000))
tokens = sum(len(row) for row in large)
print(tokens, int(1e9 * (resident_gb() - before)))
"""


def grown(how: str) -> tuple[int, int]:
    """Tokens held, and by how many bytes the process grew."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    tokens, size = map(int, done.stdout.split())
    return tokens, size


def test_memory_does_not_grow_with_tokens() -> None:
    """Twenty million tokens in less than 8 MB; the control: a list of two million takes more."""
    tokens, size = grown("disk")
    assert (tokens, size < 8e6) == (20_000_000, True)
    assert grown("memory")[1] > 8e6


def test_a_row_number_is_any_integer() -> None:
    rows: Any = EncodedRows(ROWS)
    assert rows[rows.lengths.argmax()] == ROWS[2]


@pytest.mark.parametrize("targets", [(3,), (), (7, -1, 12), (0.25, -4.0), None])
def test_targets_that_are_not_tokens_come_back(targets: tuple[Any, ...] | None) -> None:
    row = Encoded((5, 6, 7), (True, False, False), "rows.jsonl:1", targets)
    other = replace(row, targets=(*targets, type(targets[0])(9)) if targets else (1,))
    kept = EncodedRows([row, other])
    assert [kept[0], kept[1]] == [row, other]
    assert [type(t) for t in kept[0].targets or ()] == [type(t) for t in targets or ()]
    assert kept.select([1])[0] == other
    assert kept.fingerprint() != EncodedRows([row, row]).fingerprint()
