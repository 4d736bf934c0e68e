"""Checks before the first step, each for a mistake that otherwise shows up as a good-looking loss curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded
from tunesmith.data.encoded_rows import EncodedRows, lengths_of


def check_training_data(data: Sequence[Encoded], tokenizer: Any, stop_ids: frozenset[int]) -> None:
    """Refuse data that would teach nothing, everything, or never to stop.

    Raises:
        UserError: no targets or only targets, an answer without a stop token that counts, or two opening tokens.
    """
    counted, total = sum(sum(e.loss_mask) for e in data), sum(lengths_of(data))
    if counted == 0:
        raise UserError(
            f"none of the {total} training tokens counts, so nothing would be learned", "Check the template or the chat roles."
        )
    if counted == total and len(data) > 1:
        raise UserError("every training token counts, the prompts included", "Check that the template puts the answer apart.")
    for example in data:
        # Nothing predicts the first token of a row, so it alone is no target.
        last = max((i for i, counts in enumerate(example.loss_mask) if counts and i), default=0)
        if not last:
            raise UserError(f"row {example.example_id} has no token that counts", "Leave it out, or give it an answer.")
        if example.ids[last] not in stop_ids:
            raise UserError(
                f"row {example.example_id} does not end in a stop token that counts: the model would never learn to stop",
                "This is a fault of the tokenizer or its chat template.",
            )
        if tokenizer.bos_token_id is not None and example.ids[:2] == (tokenizer.bos_token_id,) * 2:
            raise UserError(f"row {example.example_id} begins with two opening tokens", "Remove the one in the template.")


def within_length(data: EncodedRows, max_length: int, drop: bool) -> NDArray[np.bool_]:
    """Find the rows of at most `max_length` tokens; nothing is ever cut.

    Returns:
        For each row, whether it is kept.

    Raises:
        UserError: some are longer and `drop` is off; says how many and how long.
    """
    fits = data.lengths <= max_length
    dropped = len(data) - int(fits.sum())
    if dropped and not drop:
        longest = data[int(data.lengths.argmax())]
        raise UserError(
            f"{dropped} of {len(data)} rows are longer than max_length = {max_length} tokens "
            f"(the longest, {longest.example_id}, has {len(longest)})",
            f"Set --max_length {len(longest)}, or --over_long drop to leave them out.",
        )
    if dropped == len(data):
        raise UserError(f"all {len(data)} rows are longer than max_length = {max_length} tokens", "Set a larger --max_length.")
    return fits
