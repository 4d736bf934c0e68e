"""Training rows as a person may look at them."""

from __future__ import annotations

from typing import Any

from tunesmith.core.records import Encoded


def sample(tokenizer: Any, encoded: Encoded) -> list[tuple[str, bool]]:
    """Return a row as runs of text, each with whether it counts in the loss."""
    runs: list[tuple[list[int], bool]] = []
    for token, counts in zip(encoded.ids, encoded.loss_mask, strict=True):
        if not runs or runs[-1][1] != counts:
            runs.append(([], counts))
        runs[-1][0].append(token)
    return [(_visible(tokenizer.decode(ids)), counts) for ids, counts in runs]


def _visible(text: str) -> str:
    # Data may hold codes that would move the cursor, recolour the terminal or turn its text round.
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
