"""Progress for people: a live line on a terminal, one plain line every few seconds elsewhere, always on stderr."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

_PLAIN_SECONDS = 10.0
_LIVE_SECONDS = 0.2


def say(text: str) -> None:
    """Print one line for a person on stderr; where that cannot be written, for instance to a log on a full disk, work goes on."""
    _put(f"{text}\n")


def _put(text: str) -> None:
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """Write seconds as people say them: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole, minutes = round(seconds), round(seconds / 60)
    if whole < 100:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """Show how far something is, with rate and time left. Use as a context manager.

    Args:
        title: what is being done; "" = show nothing.
        total: how many units make the whole; 0 = unknown.
        unit: what is counted, for people; `scale` counts make one unit (1e6 bytes = one "MB").
    """

    def __init__(self, title: str, total: float, unit: str, scale: float = 1.0) -> None:
        self.title, self.total, self.unit, self.scale = title, total, unit, scale
        self.done = 0.0
        self.note = ""
        self._start = self._shown = time.monotonic()
        self._live = sys.stderr.isatty()
        self._printed = False

    def advance(self, amount: float, note: str = "") -> None:
        """Count `amount` more; `note` replaces the words at the end (loss, memory)."""
        self.done += amount
        self.note = note or self.note
        now = time.monotonic()
        if self.title and now - self._shown >= (_LIVE_SECONDS if self._live else _PLAIN_SECONDS):
            self._shown = now
            self._print(self._line(now), end="" if self._live else "\n")

    def _line(self, now: float) -> str:
        spent = max(now - self._start, 1e-9)
        rate = self.done / spent / self.scale
        parts = [f"{self.done / self.scale:,.0f} {self.unit}"]
        if self.total:
            left = (self.total - self.done) / self.done * spent if self.done else 0.0
            parts = [f"{self.done / self.total:4.0%} of {self.total / self.scale:,.0f} {self.unit}"]
            parts.append(f"{duration(left)} left")
        parts.append(f"{rate:,.{0 if rate >= 10 else 1}f} {self.unit}/s")
        return "  ".join([self.title, *parts, *([self.note] if self.note else [])])

    def _print(self, line: str, end: str) -> None:
        self._printed = True
        _put((f"\r\033[K{line}" if self._live else line) + end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live and self._printed:
            self._print("", end="")
