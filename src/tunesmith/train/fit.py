"""The one training loop: batches -> objective -> update -> checkpoint, resumable at every step, bit for bit."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from tunesmith.core.errors import Interrupted, WorkFailed
from tunesmith.core.memory import resident_gb
from tunesmith.core.progress import Progress, say
from tunesmith.core.records import Encoded
from tunesmith.core.runs import Run
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch, epoch_order, micro_batches
from tunesmith.train import checkpoint
from tunesmith.train.parameters import FitParameters
from tunesmith.train.update import Updater, restore, schedule_factor, weights


@dataclass(frozen=True)
class Fitted:
    """How a training went.

    Attributes:
        steps: updates made. losses: mean nats per counted token, one a step. tokens: real ones, padding not counted.
        supervised_tokens: those that counted. seconds: training only, without evaluation and saving.
        best: best value on the validation rows, None without an evaluation. stopped_early: patience ran out.
    """

    steps: int
    losses: list[float]
    tokens: int
    supervised_tokens: int
    seconds: float
    best: float | None
    stopped_early: bool


LossOf = Callable[[Batch], tuple[torch.Tensor, int]]


class _Position:
    """Everything that changes from step to step, apart from tensors."""

    def __init__(self) -> None:
        self.step = 0
        self.losses: list[float] = []
        self.tokens = self.supervised = 0
        self.seconds = 0.0
        self.best: float | None = None
        self.since_best = 0
        self.finished = False


def fit(
    loss_of: LossOf,
    parameters: Mapping[str, torch.nn.Parameter],
    data: Sequence[Encoded],
    how: FitParameters,
    run: Run,
    seed: int,
    evaluate: Callable[[], float] | None = None,
    title: str = "training",
) -> Fitted:
    """Train parameters on data until the steps are done, patience runs out or a signal asks to stop.

    A killed run continues from its newest verified checkpoint and ends with the same bits as one never killed.

    Args:
        loss_of: batch -> (summed loss over the tokens that count, their number).
        how: `learning_rate` must be set.
        evaluate: () -> a value where larger is better, measured on validation rows.

    Raises:
        WorkFailed: loss or gradient is not finite; finite weights are on disk, and the samples are named.
        Interrupted: SIGINT or SIGTERM; the step was finished and saved.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)
    updater = Updater(parameters, how.weight_decay, how.clip_norm)
    position, kept = _Position(), weights(parameters)
    folder = run.folder / "checkpoints"
    lengths = [len(e) for e in data]
    rows_per_step = how.batch_size * how.gradient_accumulation_steps
    per_epoch = math.ceil(len(data) / rows_per_step)
    total = how.max_steps or max(math.ceil(per_epoch * how.epochs), 1)
    if resumed := checkpoint.latest(folder):
        _, tensors, state = resumed
        kept = _resume(updater, position, tensors, state)
        say(f"{title}: going on after step {position.step} of {total}")
    run.forget_after(position.step)
    marks = {round(total * (i + 1) / how.evaluations) for i in range(how.evaluations)} if evaluate else set()

    def save() -> None:
        state = {k: v for k, v in vars(position).items()}
        tensors = {"optimizer": updater.state(), "best": kept, "random": {"torch": torch.get_rng_state()}}
        checkpoint.save(folder, position.step, tensors, state)

    with _Signals() as signals, Progress(title, total=total, unit="steps") as progress:
        progress.advance(position.step)
        while position.step < total and not position.finished:
            epoch, index = divmod(position.step, per_epoch)
            rows = epoch_order(lengths, rows_per_step, seed, epoch)[index]
            # Dropout draws from here, so a step's randomness is its own and not the history's.
            torch.manual_seed(derive(seed, "step", position.step))
            report = _step(loss_of, updater, [data[i] for i in rows], how, position, total)
            if problem := report.pop("problem", None):
                save()
                raise WorkFailed(*problem)
            if position.step in marks and evaluate:
                kept = _judge(evaluate(), position, parameters, kept, how.patience)
                report["validation"] = position.best if position.since_best == 0 else report.get("validation")
            run.log({"step": position.step, **report})
            progress.advance(1, f"loss {position.losses[-1]:.3f}  {_rate(position)}  {resident_gb():.1f} GB")
            if signals.caught or position.step % how.save_steps == 0 or position.step == total or position.finished:
                save()
            signals.raise_if_caught(position.step)
    if position.best is not None:
        restore(parameters, kept)
    early = position.finished and position.step < total
    return Fitted(position.step, position.losses, position.tokens, position.supervised, position.seconds, position.best, early)


def _step(
    loss_of: LossOf, updater: Updater, examples: list[Encoded], how: FitParameters, position: _Position, total: int
) -> dict[str, Any]:
    """Make one update and move the position on; returns what to log, or {"problem": (message, fix)} with nothing changed."""
    start = time.perf_counter()
    # The first token of a row is predicted from nothing and so never counts.
    counted = sum(sum(e.loss_mask[1:]) for e in examples)
    loss = 0.0
    for batch in micro_batches(examples, how.tokens_per_micro_batch):
        nll, _ = loss_of(batch)
        value = float(nll.detach())
        if not math.isfinite(value):
            updater.clear()
            return {"problem": _not_finite("loss", value, position.step + 1, batch.example_ids)}
        (nll / counted).backward()
        loss += value / counted
    rate = (how.learning_rate or 0.0) * schedule_factor(how.schedule, position.step, total, round(how.warmup * total))
    norm = updater.step(rate)
    if not math.isfinite(norm):
        return {"problem": _not_finite("gradient", norm, position.step + 1, tuple(e.example_id for e in examples))}
    position.step += 1
    position.losses.append(loss)
    position.tokens += sum(len(e) for e in examples)
    position.supervised += counted
    position.seconds += time.perf_counter() - start
    return {"loss": loss, "learning_rate": rate, "grad_norm": norm, "tokens": position.tokens}


def _not_finite(what: str, value: float, step: int, ids: Sequence[str]) -> tuple[str, str]:
    named = ", ".join(ids[:8]) + (" ..." if len(ids) > 8 else "")
    return (
        f"the {what} of step {step} is {value}; training stopped before it could reach the weights. Rows: {named}",
        "Look at these rows, or lower --learning_rate. The weights before this step are in checkpoints/.",
    )


def _judge(
    value: float, position: _Position, parameters: Any, kept: dict[str, torch.Tensor], patience: int
) -> dict[str, torch.Tensor]:
    if position.best is None or value > position.best:
        position.best, position.since_best = value, 0
        return weights(parameters)
    position.since_best += 1
    position.finished = position.since_best >= patience
    return kept


def _resume(
    updater: Updater, position: _Position, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]
) -> dict[str, torch.Tensor]:
    updater.load_state(tensors["optimizer"])
    torch.set_rng_state(tensors["random"]["torch"])
    for key, value in state.items():
        setattr(position, key, value)
    return tensors["best"]


def _rate(position: _Position) -> str:
    return f"{position.tokens / max(position.seconds, 1e-9):,.0f} tokens/s"


class _Signals:
    """Turn the first SIGINT or SIGTERM into "finish this step and save"; a second one acts at once."""

    caught: Literal[0, 2, 15] = 0

    def __enter__(self) -> _Signals:
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

    def raise_if_caught(self, step: int) -> None:
        if self.caught:
            raise Interrupted(
                f"stopped after step {step}; everything is saved", 128 + self.caught, "The same command continues from there."
            )

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
