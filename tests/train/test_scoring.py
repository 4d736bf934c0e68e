"""Asking a scorer: failures are tried again, a hanging one is stopped, and a bad score is named."""

import math
import time
from collections.abc import Sequence

import pytest

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.train import scoring
from tunesmith.train.scoring import Answer, scores_of

ANSWERS = [Answer("p", "one", True), Answer("p", "two", False)]
WHERES = ["file:1", "file:2"]


class Odd(Exception):
    """An error that nobody has heard of."""


class Failing:
    """A scorer that fails so many times before it gives scores."""

    def __init__(self, times: int, error: Exception, scores: Sequence[float] = (1.0, 2.0)) -> None:
        self.left, self.error, self.scores, self.calls = times, error, scores, 0

    def __call__(self, answers: Sequence[Answer]) -> Sequence[float]:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return self.scores


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "_WAITS", (0.0, 0.0))


def test_a_scorer_that_fails_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert scores_of(Failing(2, Odd("the line is busy")), ANSWERS, WHERES, 5.0) == [1.0, 2.0]
    assert capsys.readouterr().err.count("the scorer failed (Odd: the line is busy); it is asked again") == 2


def test_one_that_goes_on_failing_stops_the_work_with_its_own_words() -> None:
    scorer = Failing(99, ZeroDivisionError("by zero"))
    with pytest.raises(WorkFailed, match=r"failed 3 times on 2 answers, the first to file:1: ZeroDivisionError: by zero"):
        scores_of(scorer, ANSWERS, WHERES, 5.0)
    assert scorer.calls == 3


@pytest.mark.parametrize("error", [UserError("no such column"), WorkFailed("the service is gone")])
def test_our_own_errors_are_final(error: Exception) -> None:
    scorer = Failing(99, error)
    with pytest.raises(type(error), match=str(error)):
        scores_of(scorer, ANSWERS, WHERES, 5.0)
    assert scorer.calls == 1
    with pytest.raises(KeyboardInterrupt):
        scores_of(Failing(1, KeyboardInterrupt()), ANSWERS, WHERES, 5.0)  # type: ignore[arg-type]


def test_one_that_hangs_is_stopped_every_time_it_is_asked() -> None:
    asked = []

    def hangs(answers: Sequence[Answer]) -> Sequence[float]:
        asked.append(time.perf_counter())
        time.sleep(30)
        return [0.0, 0.0]

    start = time.perf_counter()
    with pytest.raises(WorkFailed, match=r"TimeoutError: it took longer than 0.1 seconds"):
        scores_of(hangs, ANSWERS, WHERES, 0.1)
    assert len(asked) == 3
    assert time.perf_counter() - start < 5
    # Nothing is left that would go off later.
    time.sleep(0.2)


def test_a_hang_that_a_scorer_survives_by_itself_is_stopped_again() -> None:
    def stubborn(answers: Sequence[Answer]) -> Sequence[float]:
        for _ in range(2):
            try:
                time.sleep(30)
            except TimeoutError:
                continue
        raise WorkFailed("tried twice")

    with pytest.raises(WorkFailed, match="tried twice"):
        scores_of(stubborn, ANSWERS, WHERES, 0.1)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_names_its_answer(bad: float) -> None:
    with pytest.raises(WorkFailed, match=f"the scorer gave {bad} to the answer 'two' to file:2"):
        scores_of(lambda answers: [0.0, bad], ANSWERS, WHERES, 5.0)


def test_another_number_of_scores_is_refused() -> None:
    with pytest.raises(WorkFailed, match="the scorer gave 1 scores for 2 answers"):
        scores_of(lambda answers: [0.0], ANSWERS, WHERES, 5.0)
