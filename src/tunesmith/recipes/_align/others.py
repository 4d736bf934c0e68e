"""What answers gain anyway, for KTO: the mean log-ratio of answers that belong to other prompts, by the policy of the moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded
from tunesmith.core.seeds import derive
from tunesmith.data.collate import VaryingRows
from tunesmith.models.load import LM
from tunesmith.recipes._align.config import Config
from tunesmith.recipes._align.judged import (
    ANYWAY,
    REFERENCE,
    JudgedPrompt,
    encode_answer,
    encode_row,
    log_probabilities,
    with_beside,
)  # fmt: skip


class WithOthers(VaryingRows):
    """Batches of judged rows with what answers to other prompts gain, measured by the policy of the moment.

    An epoch is one update's rows: that gain is an estimate over a whole batch, however it is cut for memory.

    Args:
        others: of each row a text that answers another prompt, with its log-probability by the reference.
    """

    def __init__(self, lm: LM, rows: Sequence[Encoded], others: Sequence[Encoded], config: Config) -> None:
        self.lm, self.rows, self.others, self.config = lm, rows, others, config
        self._count = min(config.batch_size * config.gradient_accumulation_steps, len(rows))
        self._longest = sorted(rows, key=len, reverse=True)[: self._count]
        self._made: tuple[int, list[Encoded]] = (-1, [])
        self._gain = 0.0

    def __len__(self) -> int:
        return self._count

    def row(self, number: int) -> Encoded:
        """Return one of the longest rows: which ones are an update's is known when it begins."""
        return self._longest[number]

    def in_epoch(self, epoch: int) -> Sequence[Encoded]:
        """Return the rows of an update; all rows in a shuffled order before any comes again."""
        if self._made[0] != epoch:
            chosen = list(self._chosen(epoch))
            self._gain = self._measured([self.others[i] for i in chosen])
            rows = [self.rows[i] for i in chosen]
            self._made = epoch, [with_beside(row, ANYWAY, [self._gain] * len(row.beside or ())) for row in rows]
        return self._made[1]

    def _chosen(self, epoch: int) -> Iterator[int]:
        total = len(self.rows)
        for at in range(epoch * self._count, (epoch + 1) * self._count):
            turn, place = divmod(at, total)
            order = torch.randperm(total, generator=torch.Generator().manual_seed(derive(self.config.seed, "rows", turn)))
            yield int(order[place])

    def _measured(self, others: Sequence[Encoded]) -> float:
        said = log_probabilities(self.lm, others, self.config.tokens_per_micro_batch)
        gains = [mine - row.beside[0][REFERENCE] for (mine,), row in zip(said, others, strict=True) if row.beside]
        return sum(gains) / len(gains)


def others_of(lm: LM, asked: Sequence[JudgedPrompt], rows: Sequence[Encoded], seed: int) -> list[Encoded]:
    """Return for each prompt a text that answers another one.

    Raises:
        UserError: there is only one prompt.
    """
    if len(asked) < 2:
        raise UserError("there is only one prompt, and what answers gain anyway is measured on those to others", "Give more.")
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(derive(seed, "others"))).tolist()
    other = {number: order[(place + 1) % len(order)] for place, number in enumerate(order)}
    found = []
    for number, one in enumerate(asked):
        text = encode_answer(lm, one.prompt, asked[other[number]].completions[0])
        if len(text[0]) > lm.context_length:
            text = encode_answer(lm, one.prompt, one.completions[0])
        found.append(encode_row(lm, [text], [], rows[number].example_id))
    return found
