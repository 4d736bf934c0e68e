"""Memory of this process, as the operating system counts it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path


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
