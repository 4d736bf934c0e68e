"""What a training will need, before it is done: memory by counting a small batch's tensors, time by a few real steps.

    peak = resident now + optimizer (masters, moments, gradients, kept weights) + fixed + bytes per token x tokens at once

Bytes per token are not a formula for some architecture but the slope between two small batches whose tensors were counted
as they came and went, so they follow from whatever the model, the peft method and the loss really do.
"""

from __future__ import annotations

import heapq
import math
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from tunesmith.core.memory import available_gb, recent_peak_gb, reset_peak, resident_gb
from tunesmith.core.records import Encoded
from tunesmith.data.collate import collate
from tunesmith.data.encoded_rows import lengths_of, longest_of
from tunesmith.train.parameters import FitParameters
from tunesmith.train.rehearsal import Rehearsal
from tunesmith.train.training import Training

# Rows looked at to learn how many tokens count.
_SAMPLED_ROWS = 1000
# Tokens of the two counted batches: several blocks of attention, so that the slope between them is that of longer rows.
_SMALL, _LARGE = 128, 256
# Steps timed, by their place among all when sorted by size: at least so many, then until enough time has passed.
_QUANTILES = (0.5, 0.75, 0.25, 0.6, 0.4, 0.5, 0.75, 0.25)
_FEWEST, _ENOUGH_SECONDS = 2, 2.0
# On a processor, products in reduced precision leave compiled code behind for up to 1,024 shapes. So much was measured (by
# training with room for 16 instead, docs/log.md), once some two dozen steps of different lengths had been made.
_KERNELS_GB, _KERNELS_STEPS = 0.25, 24


@dataclass(frozen=True)
class Memory:
    """Memory of a training, bytes, on the device its parameters are on.

    Attributes:
        resident: before it begins. optimizer: masters, moments, gradients and kept best weights.
        fixed: of a forward and backward pass whatever its size, without gradients. per_token: of one token more in a micro-batch.
    """

    resident: float
    optimizer: float
    fixed: float
    per_token: float

    def peak_gb(self, tokens: int) -> float:
        """Return the peak with this many tokens in the largest micro-batch, 10^9 bytes."""
        return (self.resident + self.optimizer + self.fixed + self.per_token * tokens) / 1e9

    def most_tokens(self, limit_gb: float) -> int:
        """Return how many tokens a micro-batch may have within a limit; 0 or less if not even one fits."""
        return math.floor((limit_gb * 1e9 - self.resident - self.optimizer - self.fixed) / self.per_token)

    def with_trained(self, share: float) -> Memory:
        """Return the same with this share of the parameters trained; activations are taken to stay as they are."""
        return replace(self, optimizer=self.optimizer * share, fixed=self.fixed * share)


@dataclass(frozen=True)
class Calibration:
    """What real steps showed.

    Attributes:
        seconds: of the whole training, evaluating and saving left out. tokens_per_second: real tokens.
        peak_gb: of the training, 10^9 bytes; loading the model may have taken more.
        evaluation_seconds: of measuring once on validation rows.
    """

    seconds: float
    tokens_per_second: float
    peak_gb: float
    evaluation_seconds: float


def count_memory(training: Training, keeps_best: bool) -> Memory:
    """Count the tensors of two small batches as they come and go; weights are not changed, only gradients are made and dropped.

    Args:
        keeps_best: the training evaluates and so keeps a copy of the best weights.
    """
    small, large = (_Counting.of(training, tokens) for tokens in (_SMALL, _LARGE))
    # A small batch of a full fine-tuning may be highest at a gradient that is as large whatever the batch: then the forward
    # pass alone tells what a token more takes, and the gradient stays beside it.
    per_token = max(large.forward - small.forward, large.whole - small.whole, 1) / (_LARGE - _SMALL)
    fixed = max(large.whole - per_token * _LARGE, 0.0)
    # Resident memory is read last: by now the libraries have loaded and prepared what they keep.
    return Memory(_in_use(training.device), _optimizer_bytes(training, keeps_best), fixed, per_token)


def tokens_at_once(lengths: Sequence[int], how: FitParameters) -> int:
    """Return the tokens of the largest micro-batch: the budget, less if a whole step has fewer, more if one row alone has.

    Args:
        lengths: tokens of each row.
    """
    step = heapq.nlargest(how.batch_size * how.gradient_accumulation_steps, lengths)
    return max(step[0], min(how.tokens_per_micro_batch, sum(step)))


def limit_gb(device: torch.device, chosen: float | None = None) -> float:
    """Return how much memory this process may have in all, 10^9 bytes: what it has and can still get, or what was chosen."""
    if device.type == "cuda":
        left: float | None = torch.cuda.mem_get_info(device)[0] / 1e9
    else:
        left = available_gb()
    most = math.inf if left is None else _in_use(device) / 1e9 + left
    return most if chosen is None else min(most, chosen)


def steps_of(training: Training) -> int:
    """Return how many updates a training makes if nothing stops it early."""
    return Rehearsal(training).plan.total


def calibrate(training: Training, keeps_best: bool, evaluate: Callable[[], object] | None = None) -> Calibration:
    """Make a few real steps and take them back: the heaviest micro-batches for memory, typical steps for time.

    Call it only where `count_memory` says that the training fits.

    Args:
        evaluate: what the training measures on validation rows, done once.
    """
    plan = Rehearsal(training).plan
    peak, evaluation_seconds = measure_peak_gb(training, keeps_best, evaluate)
    rate = 0.0  # The work of an update does not depend on how far it goes.
    with Rehearsal(training) as rehearsal:
        steps = sorted((plan.examples(step) for step in range(min(plan.total, 64))), key=lambda rows: sum(map(len, rows)))
        for done, place in enumerate(_QUANTILES):
            if done >= _FEWEST and rehearsal.seconds > _ENOUGH_SECONDS:
                break
            rehearsal.step(rate, steps[round(place * (len(steps) - 1))])
        per_second = rehearsal.tokens / rehearsal.seconds
        # Batches of other shapes leave holes in memory: a training takes more than its longest rows alone.
        peak = max(peak, _recent_peak(training.device) - _kept_for_nothing(training, keeps_best))
    peak += _kernels_gb(training, plan.total)
    return Calibration(plan.tokens / per_second, per_second, peak, evaluation_seconds)


def _kernels_gb(training: Training, steps: int) -> float:
    reduced = any(p.dtype != torch.float32 for p in training.parameters.values())
    return _KERNELS_GB * min(steps / _KERNELS_STEPS, 1.0) if reduced and training.device.type == "cpu" else 0.0


def measure_peak_gb(training: Training, keeps_best: bool, evaluate: Callable[[], object] | None = None) -> tuple[float, float]:
    """Make one step on the longest rows, evaluate, and take it back.

    Returns:
        The memory in use at its highest, 10^9 bytes, and the seconds of evaluating.
    """
    _reset(training.device)
    with Rehearsal(training) as rehearsal:
        rehearsal.step(0.0, _heaviest(training.data, training.how))
        start = time.perf_counter()
        if evaluate:
            evaluate()
        seconds = time.perf_counter() - start
        peak = _recent_peak(training.device)
    return peak - _kept_for_nothing(training, keeps_best), seconds


def _kept_for_nothing(training: Training, keeps_best: bool) -> float:
    # To take steps back, the weights are kept, as a training does that evaluates; 10^9 bytes.
    return 0.0 if keeps_best else sum(p.nbytes for p in training.parameters.values()) / 1e9


def disk_bytes(training: Training, best: bool) -> int:
    """Return the most that checkpoints take at once, bytes: two are kept while a third is written.

    Each has float32 masters and two moments, and the best weights so far if the training evaluates.
    """
    parameters = training.parameters.values()
    one = sum(p.numel() * 12 + (p.nbytes if best else 0) for p in parameters)
    steps = steps_of(training)
    saves = steps // training.how.save_steps + (1 if steps % training.how.save_steps else 0)
    return one * min(saves, 3)


def _heaviest(data: Sequence[Encoded], how: FitParameters) -> list[Encoded]:
    """The longest rows, as many as fill two micro-batches: the second finds the gradients of the first."""
    longest = longest_of(data, how.batch_size * how.gradient_accumulation_steps)
    rows: list[Encoded] = []
    for row in longest:
        if rows and sum(map(len, rows)) > 2 * how.tokens_per_micro_batch:
            break
        rows.append(row)
    return rows


def _optimizer_bytes(training: Training, keeps_best: bool) -> float:
    total = 0
    for p in training.parameters.values():
        reduced = p.dtype != torch.float32
        # A gradient and two moments; in reduced precision also a master and its gathered gradient.
        total += p.nbytes + p.numel() * (16 if reduced else 8) + (p.nbytes if keeps_best else 0)
        total += training.anchor.bytes_for(p) if training.anchor else 0
    return total


def _in_use(device: torch.device) -> float:
    return float(torch.cuda.memory_reserved(device)) if device.type == "cuda" else resident_gb() * 1e9


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak()


def _recent_peak(device: torch.device) -> float:
    return torch.cuda.max_memory_reserved(device) / 1e9 if device.type == "cuda" else recent_peak_gb()


def _sample(data: Sequence[Encoded], tokens: int) -> Encoded:
    """A row of this many tokens of which as many count as do in the data: for counting bytes only, never for learning."""
    rows = data[:_SAMPLED_ROWS]
    counted, total = sum(sum(e.loss_mask) for e in rows), sum(map(len, rows))
    given = [t for e in rows for t in e.targets or ()]
    ids = [i for e in rows for i in e.ids][:tokens]
    ids = (ids * (tokens // len(ids) + 1))[:tokens]
    first = rows[0]
    texts = sum(first.loss_mask)
    if given and first.loss_mask[0] and (texts == 1 or first.beside or len(first.targets or ()) != texts):
        # Of the row as a whole, which may be several texts: a class, a number, or two places in it, or numbers of each text.
        begins, zeros = {i * tokens // texts for i in range(texts)}, tuple(0 * t for t in first.targets or ())
        return Encoded(tuple(ids), tuple(i in begins for i in range(tokens)), "sample", zeros, first.beside)
    wanted = max(round(tokens * counted / total), 1)
    targets = tuple((given * (wanted // len(given) + 1))[:wanted]) if given else None
    beside = (rows[0].beside[0],) * wanted if rows[0].beside else None
    return Encoded(tuple(ids), tuple(i >= tokens - wanted for i in range(tokens)), "sample", targets, beside)


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


@dataclass(frozen=True)
class _Counted:
    forward: int
    whole: int


class _Counting(TorchDispatchMode):
    """Count the bytes of tensors from when an operation makes them until nobody holds them."""

    def __init__(self, known: Mapping[int, Any]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._held: dict[int, Any] = dict(known)

    @staticmethod
    def of(training: Training, tokens: int) -> _Counted:
        """Return the most bytes that a forward pass, and a forward and backward pass, over so many tokens holds at once."""
        # No row is longer than the data's, which is what the model can read at the least.
        rows = math.ceil(tokens / max(lengths_of(training.data)))
        batch = collate([_sample(training.data, tokens // rows)] * rows)
        random = torch.get_rng_state()
        # Gradients are dropped as they come: their size is known, and there may be no room for all of them.
        hooks = [p.register_post_accumulate_grad_hook(_drop_gradient) for p in training.parameters.values()]
        with _Counting({p.untyped_storage()._cdata: p.untyped_storage() for p in training.parameters.values()}) as counting:
            nll = training.loss_of(batch)[0]
            forward = counting.peak
            nll.backward()
        for hook in hooks:
            hook.remove()
        torch.set_rng_state(random)
        return _Counted(forward, counting.peak)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        taken = {t.untyped_storage()._cdata for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)}
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage(), taken)
        self.peak = max(self.peak, self.now)
        return result

    def _see(self, storage: Any, taken: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        # A view of what was there before, such as a frozen weight, takes no new memory.
        if key in self._held or key in taken:
            return
        self.now += size
        self._held[key] = weakref.ref(storage, lambda _: self._drop(key, size))

    def _drop(self, key: int, size: int) -> None:
        self._held.pop(key, None)
        self.now -= size
