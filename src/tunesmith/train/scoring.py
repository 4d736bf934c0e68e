"""Asking a scorer: it may fail or hang, which is tried again, and what it says is looked at before anything learns from it."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tunesmith.core.errors import TunesmithError, WorkFailed
from tunesmith.core.progress import say
from tunesmith.core.records import Message

# Seconds waited before a scorer that failed is asked again.
_WAITS = (0.2, 1.0)


@dataclass(frozen=True)
class Answer:
    """What a scorer judges.

    Attributes:
        prompt: as text. text: what answers it. ended: whether it ended by itself. golds: what is right, if known.
        turns: the conversation that the prompt is; empty = it is a text.
    """

    prompt: str
    text: str
    ended: bool
    golds: tuple[str, ...] = ()
    turns: tuple[Message, ...] = ()


def as_text(turns: Sequence[Message]) -> str:
    """Return a conversation as the text that a scorer of texts sees: of one turn what it says, of several who says what."""
    return turns[0].content if len(turns) == 1 else "\n".join(f"{turn.role}: {turn.content}" for turn in turns)


Scorer = Callable[[Sequence[Answer]], Sequence[float]]


def scores_of(
    scorer: Scorer, answers: Sequence[Answer], wheres: Sequence[str], timeout: float, no_end: float | None = None
) -> list[float]:
    """Return one finite score for each answer.

    Args:
        wheres: where each answer's prompt stands, for messages. timeout: seconds a scorer may take; it is kept to on the main
            thread of a process only, for it is enforced by a signal.
        no_end: score of an answer that did not end, in the place of the scorer's; None = the scorer's counts.

    Raises:
        UserError: the scorer cannot judge at all. WorkFailed: it failed or took too long each time it was asked, gave another
            number of scores, or one that is not finite; the answer is named.
    """
    problem = ""
    for wait in (0.0, *_WAITS):
        if problem:
            say(f"the scorer failed ({problem}); it is asked again")
            time.sleep(wait)
        attempt = _Attempt()
        with attempt, _at_most(timeout):
            attempt.scores = [float(score) for score in scorer(answers)]
        if not (problem := attempt.problem):
            scores = _looked_at(attempt.scores, answers, wheres)
            return scores if no_end is None else [s if a.ended else no_end for s, a in zip(scores, answers, strict=True)]
    raise WorkFailed(
        f"the scorer failed {len(_WAITS) + 1} times on {len(answers)} answers, the first to {wheres[0]}: {problem}",
        "Mend the scorer, or let it take longer with --scorer_timeout. The same command goes on from the newest checkpoint.",
    )


class _Attempt:
    """Asking once: keeps what went wrong in somebody else's code, in words, whatever it is; "" = nothing."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.problem = ""

    def __enter__(self) -> _Attempt:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        # Our own errors come from scorers that have tried again already.
        if not isinstance(error, Exception) or isinstance(error, TunesmithError):
            return False
        self.problem = f"{type(error).__name__}: {error}".rstrip(": ")[:300]
        return True


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside a with-block whenever so much time has passed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: Any) -> None:
        raise TimeoutError(f"it took longer than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, late)
    # Again and again, for a scorer may try again by itself.
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _looked_at(scores: list[float], answers: Sequence[Answer], wheres: Sequence[str]) -> list[float]:
    if len(scores) != len(answers):
        raise WorkFailed(f"the scorer gave {len(scores)} scores for {len(answers)} answers", "Give one for each.")
    for where, answer, score in zip(wheres, answers, scores, strict=True):
        if not math.isfinite(score):
            raise WorkFailed(
                f"the scorer gave {score} to the answer {answer.text[:80]!r} to {where}",
                "Mend the scorer: it must stand any answer, an empty one too. Rounds that were finished are kept.",
            )
    return scores
