"""Memory of this process and of the machine, as the operating system counts it."""

from __future__ import annotations

import os
import re
import resource
import sys
from pathlib import Path
from typing import Any

from tunesmith.core.levers import on

_PROC = Path("/proc/self")
# The peaks that `reset_peak` made the system forget.
_forgotten = [0.0]
# Products of a training step have some sixty shapes; more are only kept for nothing.
_KERNELS = 128
_cache = [2.0]


def peak_gb() -> float:
    """Return the peak memory of this process, in 10^9 bytes: a GPU's where it uses one, else what was resident."""
    torch: Any = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() / 1e9
    return max(*_forgotten, _peak())


def _peak() -> float:
    # What getrusage says a process inherits from the one that started it, so it is only for where nothing better is known.
    if found := re.search(r"^VmHWM:\s+(\d+) kB", _read(_PROC / "status"), re.MULTILINE):
        return int(found[1]) * 1024 / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def reset_peak() -> bool:
    """Begin a new peak for `recent_peak_gb`; `peak_gb` goes on counting. False where the system cannot (it is Linux's own)."""
    before = peak_gb()
    try:
        (_PROC / "clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return False
    _forgotten[0] = before
    return True


def recent_peak_gb() -> float:
    """Return the peak since `reset_peak`, in 10^9 bytes."""
    return _peak()


def resident_gb() -> float:
    """Return the resident memory now, in 10^9 bytes; the peak where the system does not tell."""
    try:
        pages = int((_PROC / "statm").read_text(encoding="utf-8").split()[1])
    except OSError:
        return peak_gb()
    return pages * resource.getpagesize() / 1e9


def use_large_pages() -> None:
    """Let torch take its memory in huge pages; call before its first tensor. Only Linux has them."""
    if sys.platform.startswith("linux") and on("pages"):
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def limit_kernels() -> None:
    """Let torch keep the compiled kernels of its last 128 shapes of products; call before its first product.

    On a CPU, products in reduced precision are compiled for their shape, and every batch has its own. A kernel takes about
    1.2 MB; both of the libraries involved would keep 1,024.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(_KERNELS))


def limit_cache(gb: float) -> None:
    """Let scoring and generating keep at most this much of keys and values, 10^9 bytes; one text alone may need more."""
    _cache[0] = gb


def cache_gb() -> float:
    """Return what `limit_cache` was told, or the usual 2."""
    return _cache[0]


def available_gb(root: Path = Path("/")) -> float | None:
    """Return how much more memory this process can take, in 10^9 bytes; None where the system does not tell.

    The least of what the machine has (MemAvailable) and what the limits of its control groups leave, those above it
    included; of what a group uses, file pages that can be dropped do not count.

    Args:
        root: where `proc` and `sys` stand.
    """
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    left = [int(found[1]) * 1024] if found else []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers in ("", "memory"):
            version = 1 if controllers else 2
            left += _left_in_groups(root / "sys/fs/cgroup" / controllers, place.strip("/"), version)
    return max(min(left), 0) / 1e9 if left else None


def _left_in_groups(top: Path, place: str, version: int) -> list[int]:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    file_pages = re.compile(rf"^{'inactive_file' if version == 2 else 'total_inactive_file'} (\d+)", re.MULTILINE)
    folders = [top / place, *(parent for parent in (top / place).parents if parent.is_relative_to(top))]
    left = []
    for folder in folders:
        limit, used = (_read(folder / name).strip() for name in names)
        if limit.isdigit() and used.isdigit():
            droppable = file_pages.search(_read(folder / "memory.stat"))
            left.append(int(limit) - int(used) + (int(droppable[1]) if droppable else 0))
    return left


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
