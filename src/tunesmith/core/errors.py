"""Errors a person reads: what happened, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TunesmithError(Exception):
    """Something went wrong that a person can understand.

    Args:
        message: what happened and where (file, line, row, key or tensor).
        fix: what to do about it, one sentence; printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.message, self.fix = message, fix

    def __str__(self) -> str:
        return f"{self.message}\n  {self.fix}" if self.fix else self.message


class UserError(TunesmithError):
    """Wrong usage or bad input: the command line exits with 2."""

    exit_code = 2


class WorkFailed(TunesmithError):
    """The work itself failed (a non-finite loss, a full disk): the command line exits with 1."""


class Interrupted(TunesmithError):
    """A signal ended the work after its state was saved: exit code 130 (Ctrl-C) or 143 (SIGTERM)."""

    def __init__(self, message: str, exit_code: int, fix: str = "") -> None:
        super().__init__(message, fix)
        self.exit_code = exit_code


def near_miss(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known word, else the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(known)}." if known else ""


def unknown(kind: str, word: str, known: Iterable[str]) -> UserError:
    """Build the error for a name that does not exist, with its near miss."""
    return UserError(f"unknown {kind} '{word}'", near_miss(word, known))
