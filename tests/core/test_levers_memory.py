"""Large pages are asked for before torch takes memory, by nobody who switched them off, and never at the price of an error."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import os, re
from tunesmith.core.memory import use_large_pages
use_large_pages()
import torch
held = [torch.ones(4_000_000) for _ in range(20)]
rollup = open("/proc/self/smaps_rollup").read()
print(os.environ.get("THP_MEM_ALLOC_ENABLE", "0"), re.search(r"AnonHugePages:\\s+(\\d+)", rollup)[1])
"""


def pages(left_out: str) -> tuple[str, int]:
    """What torch was told, and kilobytes in huge pages, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env={**_environment(), "TUNESMITH_WITHOUT": left_out},
    )
    told, kilobytes = done.stdout.split()
    return told, int(kilobytes)


def _environment() -> dict[str, str]:
    import os

    return {key: value for key, value in os.environ.items() if key != "THP_MEM_ALLOC_ENABLE"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has the switches")
def test_large_pages_are_used_unless_left_out() -> None:
    with_it, without_it = pages(""), pages("pages")
    assert (with_it[0], without_it[0]) == ("1", "0")
    mode = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="utf-8").partition("[")[2].partition("]")[0]
    assert (with_it[1] > without_it[1] + 100_000) == (mode == "madvise")
