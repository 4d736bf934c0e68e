"""Which words say a label best, found on a few labelled rows: PETAL's likelihood ratio, then LM-BFF's accuracy.

For label y and word w, with p(w|x) the model's probability of w as the answer to row x,

    r(y, w) = sum_{x in y} logit p(w|x) - n_y / (n - n_y) sum_{x not in y} logit p(w|x)

is the log-likelihood ratio of "w is said for y and for nothing else", both sides weighing the same (Schick, Schmid & Schütze
2020, one label against the rest). The words with the largest r are the shortlist. From it one word a label is chosen by
accuracy on the same rows (Gao, Fisch & Chen 2021), one label at a time until nothing gets better; ties are settled by the
mean log-probability of the right label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Where a log-probability is 0, its logit would be infinite.
_LARGEST = -1e-6


@dataclass(frozen=True)
class Tried:
    """One assignment of words to labels, its accuracy on the rows and the mean log-probability of the right label (nats)."""

    words: Mapping[str, str]
    accuracy: float
    logprob: float


def likelihood_ratios(logprobs: np.ndarray, gold: Sequence[str]) -> dict[str, np.ndarray]:
    """Return label -> r(y, w) of every word.

    Args:
        logprobs: log p(w|x), nats [N rows, W words]. gold: label of each row; at least two different ones.
    """
    bounded = np.minimum(logprobs, _LARGEST)
    logits = bounded - np.log1p(-np.exp(bounded))
    found = {}
    for label in dict.fromkeys(gold):
        own = np.array([g == label for g in gold])
        found[label] = logits[own].sum(0) - own.sum() / (~own).sum() * logits[~own].sum(0)
    return found


def choose_words(
    scores: np.ndarray, gold: Sequence[str], shortlist: Mapping[str, Sequence[int]], starts: Sequence[Mapping[str, int]]
) -> tuple[dict[str, int], list[tuple[dict[str, int], float, float]]]:
    """Return the best assignment label -> column of a word, and every assignment tried with its two values.

    Args:
        scores: of the words [N, W], as the task normalises them. gold: label of each row.
        shortlist: label -> columns to choose from. starts: assignments to begin with; the best end wins, ties go to the first.
    """
    labels = list(shortlist)
    right = np.array([labels.index(g) for g in gold])
    known: dict[tuple[int, ...], tuple[float, float]] = {}

    def value(columns: tuple[int, ...]) -> tuple[float, float]:
        if columns not in known:
            chosen = scores[:, columns]
            of_gold = chosen[np.arange(len(right)), right] - np.logaddexp.reduce(chosen, axis=1)
            known[columns] = float((chosen.argmax(1) == right).mean()), float(of_gold.mean())
        return known[columns]

    best: tuple[int, ...] = ()
    for start in starts:
        now = tuple(start[label] for label in labels)
        value(now)
        while True:
            others = [
                (*now[:at], word, *now[at + 1 :])
                for at, label in enumerate(labels)
                for word in shortlist[label]
                if word not in now
            ]
            step = max(others, key=value, default=now)
            if value(step) <= value(now):
                break
            now = step
        if not best or value(now) > value(best):
            best = now
    tried = [(dict(zip(labels, columns, strict=True)), *values) for columns, values in known.items()]
    return dict(zip(labels, best, strict=True)), tried


def named(tried: Sequence[tuple[Mapping[str, int], float, float]], words: Sequence[str]) -> list[Tried]:
    """Return what was tried with words in place of columns, the best first."""
    found = [Tried({y: words[w] for y, w in columns.items()}, accuracy, logprob) for columns, accuracy, logprob in tried]
    return sorted(found, key=lambda one: (-one.accuracy, -one.logprob))


def top(ratios: Mapping[str, np.ndarray], count: int) -> dict[str, list[int]]:
    """Return label -> columns of its largest ratios, best first; every word goes to the label it suits best."""
    owner = np.stack(list(ratios.values())).argmax(0)
    orders = {label: [int(w) for w in np.argsort(-values, kind="stable")] for label, values in ratios.items()}
    found = {label: [w for w in order if owner[w] == at][:count] for at, (label, order) in enumerate(orders.items())}
    for label, order in orders.items():
        if not found[label]:  # every word suits another label better: the best that is no other label's first
            firsts = {columns[0] for columns in found.values() if columns}
            found[label] = [next(w for w in order if w not in firsts)]
    return found
