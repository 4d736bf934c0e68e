"""The one training loop: batches -> objective -> update -> checkpoint, resumable at every step, bit for bit."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import Interrupted, UserError, WorkFailed
from tunesmith.core.memory import peak_gb, resident_gb
from tunesmith.core.progress import Progress, say
from tunesmith.core.records import Encoded
from tunesmith.core.runs import Run
from tunesmith.core.seeds import derive
from tunesmith.data.collate import VaryingRows, epoch_order
from tunesmith.data.encoded_rows import lengths_of
from tunesmith.train import checkpoint
from tunesmith.train.engines.local import LossOf, current
from tunesmith.train.parameters import FitParameters
from tunesmith.train.tracking import Log
from tunesmith.train.training import Training
from tunesmith.train.update import Updater, restore, schedule_factor, weights


@dataclass(frozen=True)
class Validation:
    """What is measured on validation rows.

    Attributes:
        measure: () -> value. name: how the log calls it, as Hugging Face does ("eval_accuracy", "eval_loss").
        larger_is_better: which of two values is the better one.
    """

    measure: Callable[[], float]
    name: str
    larger_is_better: bool


@dataclass(frozen=True)
class Fitted:
    """How a training went.

    Attributes:
        steps: updates made. losses: mean nats per counted token, one a step. tokens: real ones, padding not counted.
        supervised_tokens: those that counted. seconds: training only, without evaluation and saving.
        best: value on the validation rows of the weights that stayed, turned so that larger is better; None without one.
        stopped_early: patience ran out, or the data ended.
    """

    steps: int
    losses: list[float]
    tokens: int
    supervised_tokens: int
    seconds: float
    best: float | None
    stopped_early: bool


def fit(training: Training, run: Run, validation: Validation | None = None, title: str = "training") -> Fitted:
    """Train parameters on data until the steps are done, patience runs out or a signal asks to stop.

    A killed run continues from its newest verified checkpoint and ends with the same bits as one never killed. With
    `validation`, the weights with the best value are the ones that stay.

    Args:
        validation: what to measure on validation rows.

    Raises:
        WorkFailed: loss, gradient, weights or the value on validation rows are not finite; finite weights are on disk, and
            the samples are named.
        Interrupted: SIGINT or SIGTERM; the step was finished and saved.
    """
    if training.anchor and training.anchor.ewc and training.anchor.fisher is None:
        raise ValueError("EWC needs a Fisher information")
    plan, how = _Plan(training), training.how
    state = _State(Updater.of(training), run.folder / "checkpoints")
    position, engine = state.position, state.engine
    if state.resume() and engine.rank == 0:
        say(f"{title}: going on after step {position.step} of {plan.total}")
    showing = Progress(title if engine.rank == 0 else "", total=plan.total, unit="steps")
    logging = Log(run if engine.rank == 0 else None, how.report_to, position.step)
    with _deterministic(), Signals() as signals, showing as progress, logging as log:
        progress.advance(position.step)
        while position.step < plan.total and not position.finished:
            try:
                if plan.ended_at(position.step):
                    position.finished = True
                    state.save()
                    break
                report = _step(training.loss_of, state, plan)
            except WorkFailed as error:
                state.save_despite(error)
                raise
            if validation and plan.evaluates_after(position.step):
                value = report[validation.name] = engine.measure(validation.measure)
                state.judge(value if validation.larger_is_better else -value, how)
            log.write(report)
            progress.advance(1, f"loss {position.losses[-1]:.3f}  {_rate(position)}  {resident_gb():.1f} GB")
            signals.caught = engine.asked_to_stop(signals.caught)
            last = position.finished or position.step == plan.total
            saved = state.save() if signals.caught or last or position.step % how.save_steps == 0 else False
            signals.raise_if_caught(position.step, saved)
    if state.best:
        restore(training.parameters, state.best)
    early = position.finished and position.step < plan.total
    return Fitted(position.step, position.losses, position.tokens, position.supervised, position.seconds, position.kept, early)


class _Plan:
    """Which rows make which step, and how fast it learns: a function of the arguments alone, so a resumed run follows it too."""

    def __init__(self, training: Training) -> None:
        self.data, self.how, self.seed, self.device = training.data, training.how, training.seed, training.device
        data, how = self.data, self.how
        self._lengths = lengths_of(data)
        self._rows_per_step = how.batch_size * how.gradient_accumulation_steps
        self._per_epoch = math.ceil(len(data) / self._rows_per_step)
        self.total = how.max_steps or max(math.ceil(self._per_epoch * how.epochs), 1)
        self._marks = {round(self.total * (i + 1) / how.evaluations) for i in range(how.evaluations)}
        self._order: tuple[int, list[list[int]]] = (-1, [])

    def epoch(self, step: int) -> float:
        """Return how many passes over the data `step` steps make."""
        return step / self._per_epoch

    def examples(self, step: int) -> list[Encoded]:
        """Return the rows of step `step`, counted from 0."""
        epoch, index = divmod(step, self._per_epoch)
        rows = self.data.in_epoch(epoch) if isinstance(self.data, VaryingRows) else self.data
        if self._order[0] != epoch:
            lengths = lengths_of(rows) if isinstance(self.data, VaryingRows) else self._lengths
            self._order = epoch, epoch_order(lengths, self._rows_per_step, self.seed, epoch)
        return [rows[i] for i in self._order[1][index]]

    def ended_at(self, step: int) -> bool:
        """Whether the data end before step `step`, counted from 0."""
        epoch, index = divmod(step, self._per_epoch)
        return index == 0 and isinstance(self.data, VaryingRows) and self.data.ended(epoch)

    def measured(self, step: int) -> dict[str, float]:
        """Return what was measured while the rows of step `step` were made."""
        return self.data.measured(step // self._per_epoch) if isinstance(self.data, VaryingRows) else {}

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of step `step`, counted from 0."""
        factor = schedule_factor(self.how.schedule, step, self.total, round(self.how.warmup * self.total))
        return (self.how.learning_rate or 0.0) * factor

    def evaluates_after(self, steps: int) -> bool:
        """Whether it is time to evaluate after so many steps."""
        return steps in self._marks


@dataclass
class _Position:
    """Everything that changes from step to step, apart from tensors."""

    step: int = 0
    losses: list[float] = field(default_factory=list)
    tokens: int = 0
    supervised: int = 0
    seconds: float = 0.0
    best: float | None = None
    kept: float | None = None
    since_best: int = 0
    finished: bool = False


class _State:
    """What a checkpoint holds: optimizer with its weights, position, and the best weights so far."""

    def __init__(self, updater: Updater, folder: Path) -> None:
        self.updater, self.folder, self.engine = updater, folder, current()
        self.position = _Position()
        self.best: dict[str, torch.Tensor] = {}

    def resume(self) -> bool:
        """Take up the newest checkpoint, if there is one."""
        found = checkpoint.latest(self.folder)
        steps = self.engine.gather(found[0] if found else 0)
        if len(set(steps)) > 1:
            where = f"workers see different checkpoints in {self.folder} (steps {steps})"
            raise UserError(where, "Put --run_dir on storage that all of them share.")
        if found is None:
            return False
        _, tensors, values = found
        self.updater.load_state(tensors["optimizer"])
        self.best = {name: self.engine.part(t, self.updater.parameters[name]) for name, t in tensors["best"].items()}
        for key, value in values.items():
            setattr(self.position, key, value)
        return True

    def save(self) -> bool:
        """Write a checkpoint; False where the disk could not take it."""
        if name := self.updater.not_finite():
            raise WorkFailed(
                f"after step {self.position.step} {name} is not finite, so it was not saved",
                "Lower --learning_rate. Earlier checkpoints are finite and kept.",
            )
        engine = self.engine
        tensors = {"optimizer": engine.whole(self.updater.state()), "best": engine.whole(self.best)}
        saved = engine.rank or checkpoint.save(self.folder, self.position.step, tensors, vars(self.position))
        return bool(engine.gather(bool(saved))[0])

    def save_despite(self, error: WorkFailed) -> None:
        """Save before a training stops for something that is not finite, unless the weights are that already.

        Raises:
            WorkFailed: they are; it names the rows, as `error` does.
        """
        if name := self.updater.not_finite():
            raise WorkFailed(
                f"{error.message}; {name} was not finite before this step, so nothing was saved",
                "Lower --learning_rate. Earlier checkpoints are finite and kept.",
            ) from error
        self.save()

    def judge(self, value: float, how: FitParameters) -> None:
        """Keep the weights if `value` is the best so far or cannot be told from it, count otherwise.

        A few hundred validation rows measure to within two or three points. Of two evaluations they cannot tell apart the
        later is kept: it has seen more rows and ends a finished schedule.
        """
        position = self.position
        if not math.isfinite(value):
            raise WorkFailed(
                f"the value on the validation rows after step {position.step} is {value}",
                "Look at these rows, or lower --learning_rate. Earlier checkpoints are kept.",
            )
        if position.best is None or value >= position.best - how.tolerance:
            self.best, position.kept = weights(self.updater.parameters), value
        if position.best is None or value > position.best:
            position.best, position.since_best = value, 0
        else:
            position.since_best += 1
            position.finished = position.since_best >= how.patience


def _step(loss_of: LossOf, state: _State, plan: _Plan) -> dict[str, float]:
    """Make one update and move the position on; returns what to log."""
    start = time.perf_counter()
    position, updater, engine = state.position, state.updater, state.engine
    examples = plan.examples(position.step)
    # Dropout draws from here, so a step's randomness is its own and not the history's.
    torch.manual_seed(derive(plan.seed, "step", position.step, *([engine.rank] if engine.rank else [])))
    counted = sum(e.counted for e in examples)
    loss, counts = 0.0, dict[str, float]()
    passes = engine.passes(examples, plan.how.tokens_per_micro_batch)
    # All of a step's batches are on their way to the device before the first is computed.
    sent = [batch.to(plan.device) if (batch := batches[engine.rank]) else None for batches in passes]
    for batches, mine in zip(passes, sent, strict=True):
        # A worker with nothing left goes through another's rows for nothing: its part of the weights is needed.
        nll, stats = loss_of(mine or next(filter(None, batches)))
        values = engine.gather(float(nll.detach()) if mine else 0.0)
        value = sum(values)
        if not math.isfinite(value):
            updater.clear()
            bad = [b.example_ids for b, v in zip(batches, values, strict=True) if b and not math.isfinite(v)]
            raise _not_finite("loss", value, position.step + 1, [i for ids in bad for i in ids])
        (nll / counted if mine else nll * 0).backward()
        updater.gather()
        loss += value / counted
        for key, value in stats.items():
            counts[key] = counts.get(key, 0.0) + sum(engine.gather(value if mine else 0.0)) / counted
    rate = plan.learning_rate(position.step)
    norm = updater.step(rate)
    if not math.isfinite(norm):
        raise _not_finite("gradient", norm, position.step + 1, [e.example_id for e in examples])
    position.step += 1
    position.losses.append(loss)
    tokens, seconds = sum(map(len, examples)), time.perf_counter() - start
    position.tokens += tokens
    position.supervised += counted
    position.seconds += seconds
    return {
        "step": position.step, "epoch": plan.epoch(position.step), "loss": loss, "grad_norm": norm, "learning_rate": rate,
        **_renamed(counts), "num_tokens": position.tokens, "tokens_per_second": tokens / seconds,
        "step_time": seconds, "peak_memory_gb": peak_gb(), **plan.measured(position.step - 1),
    }  # fmt: skip


def _renamed(counts: dict[str, float]) -> dict[str, float]:
    """Call the share of right predictions as Hugging Face does."""
    return {"mean_token_accuracy" if key == "correct" else key: value for key, value in counts.items()}


def _not_finite(what: str, value: float, step: int, ids: Sequence[str]) -> WorkFailed:
    named = ", ".join(ids[:64]) + (f" and {len(ids) - 64} more" if len(ids) > 64 else "")
    return WorkFailed(
        f"the {what} of step {step} is {value}; training stopped before this could reach the weights. Rows: {named}",
        "Look at these rows, or lower --learning_rate. The weights before this step are in checkpoints/.",
    )


def _rate(position: _Position) -> str:
    return f"{position.tokens / max(position.seconds, 1e-9):,.0f} tokens/s"


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let torch choose kernels that give the same bits every time, and leave its settings as they were."""
    settings: Any = torch.utils.deterministic
    before = torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("warn")
    # Filling new memory before it is written costs time and changes no result.
    settings.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before[0])
        settings.fill_uninitialized_memory = before[1]


class Signals:
    """Turn the first SIGINT or SIGTERM into "finish this step and save"; a second one acts at once."""

    caught: int = 0

    def __enter__(self) -> Signals:
        self._before: dict[int, Any] = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._catch)
        except ValueError:  # not the main thread: signals are somebody else's business there
            pass
        return self

    def _catch(self, number: int, frame: Any) -> None:
        self.caught = 2 if number == signal.SIGINT else 15
        say("finishing this step and saving; once more to stop at once")
        signal.signal(number, self._before[number])

    def raise_if_caught(self, step: int, saved: bool) -> None:
        """Stop after this step, if a signal asked for it.

        Raises:
            Interrupted: it did.
        """
        if self.caught:
            what = "everything is saved" if saved else "it could not be saved, but earlier checkpoints are kept"
            raise Interrupted(
                f"stopped after step {step}; {what}", 128 + self.caught, "The same command continues from the newest checkpoint."
            )

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
