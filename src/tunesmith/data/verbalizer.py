"""Verbalizers: the words z that stand for each label y, and how their scores become scores of labels.

Project (the words' log-probabilities), normalise, calibrate (evaluate/answer.py), aggregate. Under the names of lm-eval:
`none` is acc, `character` acc_norm, `byte` acc_bytes, `pmi` acc_mutual_info; `token` is GPT-3's (Brown et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Aggregate = Literal["max", "mean", "sum"]
Normalise = Literal["none", "token", "character", "byte", "pmi"]


@dataclass(frozen=True)
class Verbalizer:
    """Answer mapping (Liu et al. 2021, section 2.1; methods: several answers may stand for one label).

    Attributes:
        words: label -> its words, without leading space, first = the one to train on and to demonstrate with.
        aggregate: "max" of the words' log-probabilities (default), their "mean" (PET), or "sum" of probabilities.
        normalise: divide a word's log-probability by its tokens, characters or bytes; "none" compares sums
            (T0's rank classification). "pmi" subtracts log p(z) without the item, after the text before the answer alone
            ("Answer:"): Brown et al. 2020, section 2.4; Holtzman et al. 2021, domain-conditional PMI.
    """

    words: dict[str, tuple[str, ...]]
    aggregate: Aggregate = "max"
    normalise: Normalise = "none"

    @property
    def labels(self) -> list[str]:
        """The labels, in the task's order."""
        return list(self.words)

    def flat(self) -> list[str]:
        """All words, label by label."""
        return [word for words in self.words.values() for word in words]

    def label_scores(
        self, logprobs: Sequence[float], tokens: Sequence[int], without_item: Sequence[float] | None = None
    ) -> dict[str, float]:
        """Map the words' summed log-probabilities (nats, in `flat` order) to one score a label.

        Args:
            logprobs: one a word. tokens: number of tokens of each word.
            without_item: log p(z) of each word in a prompt without the item; needed for "pmi".

        Raises:
            ValueError: "pmi" without `without_item`.
        """
        if self.normalise == "pmi":
            if without_item is None:
                raise ValueError("pmi needs the words' log-probabilities without the item")
            logprobs = [given - alone for given, alone in zip(logprobs, without_item, strict=True)]
        scores, at = {}, 0
        for label, words in self.words.items():
            values = [logprobs[at + i] / self._length(word, tokens[at + i]) for i, word in enumerate(words)]
            at += len(words)
            scores[label] = _aggregate(values, self.aggregate)
        return scores

    def _length(self, word: str, tokens: int) -> int:
        lengths = {"none": 1, "pmi": 1, "token": tokens, "character": len(word), "byte": len(word.encode())}
        return max(lengths[self.normalise], 1)


def _aggregate(values: list[float], how: Aggregate) -> float:
    if how == "max":
        return max(values)
    if how == "mean":
        return sum(values) / len(values)
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values)) if top > -math.inf else top
