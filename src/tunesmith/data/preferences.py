"""Files of preferences: who was preferred to whom among the completions of a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.records import BadRow, Message, Preference
from tunesmith.data import formats


def read_preferences(path: Path, *, skip_bad_rows: bool = False) -> tuple[list[Preference], list[str]]:
    """Read {prompt, chosen, rejected} rows; also returns what to say about them.

    Raises:
        UserError: no such file, or a row that is none.
    """
    sniffed, bad = formats.sniff(path), list[BadRow]()
    if sniffed.convention != "preference":
        raise UserError(f"{path} holds no preferences", "Give rows of prompt, chosen and rejected.")
    found = []
    for e in formats.good_rows(sniffed, bad, skip_bad_rows=skip_bad_rows):
        prompt: Any = e.fields["prompt"]
        said = [
            e.fields[key] if isinstance(e.fields[key], str) else e.fields[key][-1]["content"] for key in ("chosen", "rejected")
        ]
        asked = prompt if isinstance(prompt, str) else tuple(Message(t["role"], t["content"]) for t in prompt)
        found.append(Preference(e.id, asked, tuple(said), (1, 2), e.where))
    return found, list(sniffed.warnings)
