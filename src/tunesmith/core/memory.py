"""Memory of this process, as the operating system counts it."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from pathlib import Path

from tunesmith.core.levers import on

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEEP_UP_TO = 1 << 30


def peak_gb() -> float:
    """Return the peak resident memory of this process, in 10^9 bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def resident_gb() -> float:
    """Return the resident memory now, in 10^9 bytes; the peak where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    except OSError:
        return peak_gb()
    return pages * resource.getpagesize() / 1e9


def use_large_pages() -> None:
    """Let torch take its memory in huge pages and keep what it frees; call before its first tensor.

    A training step takes and frees the same gigabytes again and again. Handed back to the operating system each time, they
    come again as small zeroed pages: about a fifth of a step on a CPU. Only Linux with glibc has the switches; elsewhere, and
    with the lever "pages" left out, nothing changes.
    """
    if not sys.platform.startswith("linux") or not on("pages"):
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_MMAP_THRESHOLD, _KEEP_UP_TO)
    mallopt(_TRIM_THRESHOLD, _KEEP_UP_TO)
