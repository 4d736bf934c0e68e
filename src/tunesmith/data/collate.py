"""From encoded examples to batches: a data order that is a function of seed and epoch, and micro-batches by token budget."""

from __future__ import annotations

import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from tunesmith.core.records import Encoded, MadeRows
from tunesmith.core.seeds import derive

_WINDOW = 32


class VaryingRows(MadeRows):
    """Rows that are new every epoch: tokens masked anew, other rows of a mixture; as a sequence, those of epoch 0."""

    @abstractmethod
    def in_epoch(self, epoch: int) -> Sequence[Encoded]:
        """Return the rows of an epoch, counted from 0: as many, and the same however often asked for."""

    def measured(self, epoch: int) -> dict[str, float]:
        """Return what was measured while the rows of an epoch were made, for the log."""
        return {}

    def ended(self, epoch: int) -> bool:
        """Whether nothing more is to be learned, although steps are left; asked before each epoch."""
        return False


class ChangedRows(VaryingRows):
    """Rows changed anew every epoch, each when it is asked for; how follows from seed, epoch and row number alone.

    Args:
        rows: what is changed; of rows that vary themselves, those of the same epoch.
        change: (row, its number, seed) -> the row as it is learned from.
    """

    def __init__(
        self, rows: Sequence[Encoded], change: Callable[[Encoded, int, int], Encoded], seed: int, epoch: int = 0
    ) -> None:
        self.rows, self.change, self.seed, self.epoch = rows, change, seed, epoch

    def in_epoch(self, epoch: int) -> ChangedRows:
        """Return the rows as they are changed in an epoch, counted from 0."""
        return ChangedRows(self.rows, self.change, self.seed, epoch)

    def row(self, number: int) -> Encoded:
        """Change a row."""
        rows = self.rows.in_epoch(self.epoch) if isinstance(self.rows, VaryingRows) else self.rows
        return self.change(rows[number], number, derive(self.seed, self.epoch, number))

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Batch:
    """Examples padded on the right, which a causal model needs no mask for.

    Attributes:
        ids: [B, T] token ids. lengths: [B] real tokens.
        loss_mask: [B, T] booleans, True where something is predicted that counts.
        example_ids: B identities. tokens: real tokens, padding not counted.
        targets: [N] what is predicted at the N places of the mask, row by row; None = the tokens themselves.
        beside: [N, K] numbers that belong to these places; None = none.
    """

    ids: torch.Tensor
    lengths: torch.Tensor
    loss_mask: torch.Tensor
    example_ids: tuple[str, ...]
    tokens: int
    targets: torch.Tensor | None = None
    beside: torch.Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; on its way to a GPU it is pinned, and nobody waits for it to arrive."""
        if device.type != "cuda":
            return self
        sent = {
            key: value.pin_memory().to(device, non_blocking=True)
            for key in ("ids", "lengths", "loss_mask", "targets", "beside")
            if (value := getattr(self, key)) is not None
        }
        return replace(self, **sent)

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return ids, lengths and loss_mask on a device."""
        return self.ids.to(device), self.lengths.to(device), self.loss_mask.to(device)


def collate(examples: Sequence[Encoded]) -> Batch:
    """Pad examples on the right to the longest of them."""
    longest = max(len(e) for e in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    mask = torch.zeros(len(examples), longest, dtype=torch.bool)
    for b, example in enumerate(examples):
        ids[b, : len(example)] = torch.tensor(example.ids)
        mask[b, : len(example)] = torch.tensor(example.loss_mask)
    lengths = torch.tensor([len(e) for e in examples])
    given = [e.targets for e in examples if e.targets is not None]
    targets = torch.tensor([t for row in given for t in row]) if given else None
    numbers = [e.beside for e in examples if e.beside is not None]
    beside = torch.tensor([place for row in numbers for place in row]) if numbers else None
    return Batch(ids, lengths, mask, tuple(e.example_id for e in examples), int(lengths.sum()), targets, beside)


def epoch_order(lengths: Sequence[int], batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of one epoch as row numbers; a pure function of its arguments, so a resumed run continues it.

    Rows are shuffled, then sorted by length inside windows of 32 batches, then the batches are shuffled: nearly no
    padding, and still another order every epoch.
    """
    generator = random.Random(derive(seed, "order", epoch))
    order = list(range(len(lengths)))
    generator.shuffle(order)
    window = batch_size * _WINDOW
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        rows = sorted(order[start : start + window], key=lambda i: lengths[i])
        batches += [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    generator.shuffle(batches)
    return batches


def micro_batches(examples: Sequence[Encoded], token_budget: int) -> list[Batch]:
    """Cut a batch into micro-batches of at most `token_budget` tokens, padding included (one row at the least)."""
    groups: list[list[Encoded]] = []
    for example in sorted(examples, key=len, reverse=True):
        if not groups or len(groups[-1][0]) * (len(groups[-1]) + 1) > token_budget:
            groups.append([])
        groups[-1].append(example)
    return [collate(group) for group in groups]
