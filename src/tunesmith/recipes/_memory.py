"""Refusing a training that cannot fit, with settings that would make it fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tunesmith.core.errors import UserError
from tunesmith.data.encoded_rows import lengths_of
from tunesmith.train.plan import Memory, count_memory, limit_gb, measure_peak_gb, tokens_at_once
from tunesmith.train.training import Training

_SETTINGS = ("tokens_per_micro_batch", "peft", "max_length")
_SMALLEST, _LORA_RANK = 64, 16
# Freed memory is not always given back, so more is resident than the tensors add up to: up to twice the activations that
# were counted. Near the limit the peak is therefore measured, and what is suggested fills this share of the room for activations.
_NEAR, _FILLED = 0.6, 0.45


def require_memory(
    training: Training, keeps_best: bool, limit: float | None = None, model: torch.nn.Module | None = None
) -> Memory:
    """Return what a training needs if it fits into the memory there is.

    Args:
        keeps_best: it evaluates, and so keeps a copy of the best weights. limit: most memory to use, 10^9 bytes.
        model: give it where the method and the rows may be changed too, so that settings for these are named.

    Raises:
        UserError: it cannot fit; names the settings with which it would.
    """
    memory = count_memory(training, keeps_best)
    most, tokens = limit_gb(training.device, limit), tokens_at_once(lengths_of(training.data), training.how)
    peak = memory.peak_gb(tokens)
    if _NEAR * most < peak <= most:
        peak, _ = measure_peak_gb(training, keeps_best)
    if peak > most:
        options = settings_that_fit(training, memory, most, model)
        raise UserError(
            f"this training needs about {peak:.2f} GB of memory, and {most:.2f} GB "
            f"{'are allowed' if limit is not None and most == limit else 'are available'}",
            f"Any of these would fit: {'; '.join(options)}." if options
            else f"Before a single token it needs {memory.peak_gb(0):.2f} GB: choose a smaller --model or free some memory.",
        )  # fmt: skip
    return memory


def settings_that_fit(training: Training, memory: Memory, limit: float, model: torch.nn.Module | None) -> list[str]:
    """Return up to three changes of settings, each of which makes a training fit by itself, the mildest of each kind.

    Args:
        limit: memory there is, 10^9 bytes. model: as for `require_memory`.
    """
    tries = _Tries(training, limit)
    found = [tries.smaller_micro_batch(memory)]
    if model is not None:
        found[0] = found[0] or tries.shorter_both(memory)
        share = _lora_parameters(model) / sum(p.numel() for p in training.parameters.values())
        if share < 1 and all(p.requires_grad for p in model.parameters()):
            lora = memory.with_trained(share)
            rest = "" if tries.fits(lora) else tries.smaller_micro_batch(lora) or tries.shorter_both(lora)
            if rest or tries.fits(lora):
                found.append(f"--peft lora {rest}".strip())
        found.append(tries.shorter_rows(memory))
        weights = sum(p.numel() * 2 for p in model.parameters() if p.dtype == torch.float32)
        if len([f for f in found if f]) < len(_SETTINGS) and weights:
            found.append(tries.half_precision(memory, weights))
    return list(dict.fromkeys(f for f in found if f))


@dataclass(frozen=True)
class _Tries:
    """Settings tried against the same memory model that refused."""

    training: Training
    limit: float

    def fits(self, memory: Memory, budget: int | None = None, longest: int | None = None) -> bool:
        """Whether it fits with micro-batches of so many tokens and rows no longer than this."""
        rows = [length for length in lengths_of(self.training.data) if longest is None or length <= longest]
        how = self.training.how.model_copy(update={"tokens_per_micro_batch": budget} if budget else {})
        return bool(rows) and tokens_at_once(rows, how) <= _FILLED * memory.most_tokens(self.limit)

    def smaller_micro_batch(self, memory: Memory) -> str:
        budget = tokens_at_once(lengths_of(self.training.data), self.training.how) // 2
        while budget >= _SMALLEST:
            if self.fits(memory, budget):
                return f"--tokens_per_micro_batch {budget}"
            budget //= 2
        return ""

    def shorter_rows(self, memory: Memory) -> str:
        longest = self._longest(lambda length: self.fits(memory, None, length))
        return f"--max_length {longest} --over_long drop" if longest else ""

    def shorter_both(self, memory: Memory) -> str:
        longest = self._longest(lambda length: self.fits(memory, length, length))
        return f"--tokens_per_micro_batch {longest} --max_length {longest} --over_long drop" if longest else ""

    def half_precision(self, memory: Memory, saved: int) -> str:
        resident = Memory(memory.resident - saved, memory.optimizer, memory.fixed, memory.per_token)
        return "--dtype bf16" if self.fits(resident) else ""

    def _longest(self, fits: Callable[[int], bool]) -> int:
        """The longest length of a row that fits; whatever fits with long rows fits with short ones."""
        lengths = sorted(set(lengths_of(self.training.data)))
        low, high = 0, len(lengths)
        while low < high:
            middle = (low + high) // 2
            if fits(lengths[middle]):
                low = middle + 1
            else:
                high = middle
        return lengths[low - 1] if low else 0


def _lora_parameters(model: torch.nn.Module) -> int:
    head: torch.nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    return sum(_LORA_RANK * (m.in_features + m.out_features) for m in layers)
