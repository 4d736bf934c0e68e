"""Settings found by trying them: the micro-batch that trains fastest, and the learning rate by a range test.

Range test (Smith 2017, Cyclical Learning Rates for Training Neural Networks, section 3.3): the rate rises exponentially
from step to step until the loss diverges; a good rate is where the loss, smoothed, falls most steeply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunesmith.core.errors import WorkFailed
from tunesmith.core.progress import Progress
from tunesmith.data.encoded_rows import longest_of
from tunesmith.train.plan import Memory, limit_gb
from tunesmith.train.rehearsal import Rehearsal
from tunesmith.train.training import Training

STEPS = 60
# The sweep goes this many times below and above the method's own rate: five decades.
_REACH = 10**2.5
_SMOOTHING = 0.8
# The loss has diverged when its smoothed value has risen by this share above its lowest.
_DIVERGED = 0.5
_SMALLEST = 128
# A larger micro-batch has to be this much faster to be worth its memory.
_WORTH = 1.03


@dataclass(frozen=True)
class RateTest:
    """A learning-rate range test.

    Attributes:
        rates, losses: of each step made. smoothed: losses as a moving average, without its bias to zero.
        suggestion: the rate where `smoothed` falls most steeply, two significant digits.
        diverged: the sweep ended because the loss rose or was not finite.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float
    diverged: bool


@dataclass(frozen=True)
class BatchTest:
    """Micro-batches tried: tokens_per_micro_batch -> real tokens a second, and the one chosen."""

    tokens_per_second: dict[int, float]
    suggestion: int


def find_lr(training: Training) -> RateTest:
    """Sweep the learning rate over five decades around `how.learning_rate` with real steps, and take them all back.

    Raises:
        WorkFailed: the loss never fell, so no rate can be suggested.
    """
    middle = training.how.learning_rate or 1e-4
    rates, losses, diverged = [], [], False
    with Rehearsal(training) as rehearsal, Progress("learning-rate range test", STEPS, "steps") as progress:
        for step in range(STEPS):
            rate = middle * _REACH ** (2 * step / (STEPS - 1) - 1)
            try:
                loss = rehearsal.step(rate)
            except WorkFailed:
                diverged = True
                break
            rates.append(rate)
            losses.append(loss)
            progress.advance(1, f"rate {rate:.1e}  loss {loss:.3f}")
            if diverged := has_diverged(smooth(losses)):
                break
    smoothed = smooth(losses)
    return RateTest(rates, losses, smoothed, suggest(rates, smoothed), diverged)


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the moving average of losses, corrected for its start at zero (Kingma & Ba 2015, section 3)."""
    average, found = 0.0, []
    for count, loss in enumerate(losses, 1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        found.append(average / (1 - _SMOOTHING**count))
    return found


def has_diverged(smoothed: Sequence[float]) -> bool:
    """Whether the loss has left its lowest value far behind."""
    return bool(smoothed) and smoothed[-1] > min(smoothed) * (1 + _DIVERGED)


def suggest(rates: Sequence[float], smoothed: Sequence[float]) -> float:
    """Return the rate of steepest descent before the lowest point, two significant digits.

    Slopes are taken per decade of the rate, over four steps so that one lucky batch does not decide.

    Raises:
        WorkFailed: the loss never fell.
    """
    lowest = min(range(len(smoothed)), key=smoothed.__getitem__, default=0)
    # The first averages have seen too few batches to have a slope.
    places = range(min(6, lowest), lowest + 1)
    slopes = {i: smoothed[min(i + 2, lowest)] - smoothed[max(i - 2, 0)] for i in places}
    steepest = min(slopes, key=slopes.__getitem__, default=0)
    if not slopes or slopes[steepest] >= 0:
        raise WorkFailed(
            "the learning-rate range test found no rate at which the loss falls", "Give --learning_rate, or look at the rows."
        )
    return float(f"{rates[steepest]:.1e}")


def find_batch_size(training: Training, memory: Memory, limit: float | None = None) -> BatchTest:
    """Time one large step with micro-batches of 128, 256, ... tokens and choose the size; the steps are taken back.

    The fastest that fits is chosen, or a smaller one that is nearly (3 %) as fast, since memory grows with the size. The
    result of the training does not depend on it.

    Args:
        memory: what `count_memory` said. limit: most memory to use, 10^9 bytes; None = what is available.
    """
    how = training.how
    rows = longest_of(training.data, how.batch_size * how.gradient_accumulation_steps)
    most = min(memory.most_tokens(limit_gb(training.device, limit)), sum(map(len, rows)) + len(rows[0]))
    sizes = [_SMALLEST]
    while sizes[-1] < most:
        sizes.append(sizes[-1] * 2)
    fitting = [s for s in sizes if s <= memory.most_tokens(limit_gb(training.device, limit))] or sizes[:1]
    with Rehearsal(training) as rehearsal:
        rehearsal.step(0.0, rows, how.model_copy(update={"tokens_per_micro_batch": fitting[0]}))

        def speed(size: int) -> float:
            before = rehearsal.seconds, rehearsal.tokens
            rehearsal.step(0.0, rows, how.model_copy(update={"tokens_per_micro_batch": size}))
            return (rehearsal.tokens - before[1]) / (rehearsal.seconds - before[0])

        speeds = _timed(fitting, speed)
    fastest = max(speeds.values())
    return BatchTest(speeds, next(size for size, value in speeds.items() if value * _WORTH >= fastest))


def _timed(sizes: Sequence[int], speed: Callable[[int], float]) -> dict[int, float]:
    """The better of two speeds for each size, in two rounds, so that what else the machine does hits no size alone."""
    found = dict.fromkeys(sizes, 0.0)
    for _ in range(2):
        for size in sizes:
            found[size] = max(found[size], speed(size))
    return found
