"""Switches of what makes computing faster without changing what is computed, so that each can be left out and compared.

`TUNESMITH_WITHOUT=padding,head tunesmith tune ...` leaves two of them out; `all` leaves out every one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from tunesmith.core.errors import UserError, near_miss

LEVERS = {
    "decoder": "on a CPU, blocks of the Llama family run as a few whole operations instead of many small ones",
    "encoder": "on a CPU, encoders of the BERT family compute real tokens only, and in the last block those that are wanted",
    "compile": "on a GPU, blocks of a decoder are compiled, each once for all lengths",
    "packed": "weights that are not trained are laid out once for the processor's matrix units, for scoring and generating",
    "prefixes": "what prompts share at their beginning is read once, and in training a prompt for all its completions",
    "padding": "work token by token is done for real tokens only",
    "head": "gradients of logits are made piece by piece in the forward pass",
    "vocabulary": "of an embedding table, the rows of tokens that the data use are trained; the others do not decay",
    "pages": "memory comes in huge pages",
}
_off: set[str] = set()


def on(name: str) -> bool:
    """Whether a lever is in use.

    Raises:
        UserError: TUNESMITH_WITHOUT names no lever.
    """
    return name not in _off and name not in _left_out(os.environ.get("TUNESMITH_WITHOUT", ""))


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Leave levers out inside a with-block; "all" = every one."""
    added = _left_out(",".join(names)) - _off
    _off.update(added)
    try:
        yield
    finally:
        _off.difference_update(added)


def _left_out(words: str) -> set[str]:
    names = {word.strip() for word in words.split(",") if word.strip()}
    for name in names - {"all", *LEVERS}:
        raise UserError(f"TUNESMITH_WITHOUT: there is no lever '{name}'", near_miss(name, ["all", *LEVERS]))
    return set(LEVERS) if "all" in names else names
