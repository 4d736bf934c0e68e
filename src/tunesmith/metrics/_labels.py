"""Answers that are several labels behind commas, as sets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def counts(gold: Sequence[str], predicted: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return, as float32 [n, L], twice the hits and how often each of the L labels that occur is named in gold or prediction."""
    true, given = ([_labels(text) for text in texts] for texts in (gold, predicted))
    number = {label: at for at, label in enumerate(sorted(set().union(*true, *given)))}
    columns = []
    for side in (true, given):
        table = np.zeros((len(side), max(len(number), 1)), dtype=np.float32)
        for row, labels in enumerate(side):
            table[row, [number[label] for label in labels]] = 1
        columns.append(table)
    return 2 * columns[0] * columns[1], columns[0] + columns[1]


def _labels(text: str) -> set[str]:
    return {label.strip() for label in text.split(",")} - {""}
