"""Watching rounds as they come: three answers of each for a person to read, what is wrong with them, and when to stop."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.progress import say
from tunesmith.recipes._align.health import Rounds, broken

_SHOWN, _LONGEST = 3, 100


class Watch:
    """Sees each round before it is learned from, and says whether the training ends there.

    Args:
        folder: where rounds are kept. stop_on: names of rules of `health`. max_kl: nats an answer; None = no limit.
    """

    def __init__(self, folder: Path, stop_on: Sequence[str], max_kl: float | None) -> None:
        self._folder, self._stop_on, self._max_kl = folder, stop_on, max_kl
        self._said: set[str] = set()

    def __call__(self, kept: Mapping[str, Any]) -> bool:
        """Show a round as it is kept; True = learn no more."""
        measured = kept["measured"]
        say(_line(measured))
        for row in [row for row in kept["rows"] if "text" in row][:_SHOWN]:
            say(f"  {row['score']:.2f}  {_short(row['prompt'])} >> {_short(row['text'])}")
        rounds = [*self._before(kept["round"]), measured]
        problems = broken(rounds)
        for name, sentence in problems.items():
            if name not in self._said:
                say(f"WARNING: {sentence}")
        self._said = set(problems)
        if why := self.reason(rounds):
            say(f"stopping before round {kept['round'] + 1} is learned from: {why}")
        return bool(why)

    def reason(self, rounds: Rounds) -> str:
        """Return why the training ends before the last of these rounds is learned from; "" = it does not."""
        if self._max_kl is not None and rounds[-1]["kl"] > self._max_kl:
            return f"KL reached {rounds[-1]['kl']:.2f} nats an answer (--max_kl {self._max_kl:g})"
        problems = broken(rounds)
        return next((f"{problems[name]} (--stop_on {name})" for name in self._stop_on if name in problems), "")

    def _before(self, number: int) -> list[dict[str, float]]:
        """What was measured of earlier rounds, from their files: a resumed run decides as one that was never killed."""
        return [measured_of(self._folder, i) for i in range(number)]


def measured_of(folder: Path, number: int) -> dict[str, float]:
    """Return what was measured of a round that is kept."""
    measured: dict[str, float] = json.loads((folder / f"round-{number:06d}.json").read_text(encoding="utf-8"))["measured"]
    return measured


def _line(measured: Mapping[str, float]) -> str:
    held_out = f", held out {measured['held_out']:.3f}" if "held_out" in measured else ""
    return (
        f"round {measured['round'] + 1:.0f}: score {measured['score']:.3f}{held_out}, KL {measured['kl']:.2f}, "
        f"entropy {measured['entropy']:.2f}, length {measured['completion_length']:.1f}, distinct-2 {measured['distinct_2']:.2f}"
    )


def _short(text: str) -> str:
    text = "".join(c for c in " ".join(text.split()) if c.isprintable())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
