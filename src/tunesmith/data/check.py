"""The data x-ray: what a set of rows holds and what is wrong with it, before any model sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import ceil
from typing import Any

from tunesmith.core.files import canonical
from tunesmith.core.records import BadRow, Example
from tunesmith.data._overlap import nearest, normalised
from tunesmith.data._readers import excerpt
from tunesmith.data.formats import Sniffed

_KEPT = 20
_BINS = 24
_FEW = 10

Rows = tuple[Sequence[Example], Sequence[BadRow], Sniffed | None]


@dataclass(frozen=True)
class Lengths:
    """How long rows are, in `unit`s ("tokens" or "characters"). Quantiles are nearest-rank, so each is some row's length.

    Attributes:
        bins: rows per interval of equal whole width, from minimum on; at most 24.
        limit: the longest length allowed, None for no limit; over: rows longer than that, with `where` of the first.
    """

    unit: str
    minimum: int
    median: int
    p95: int
    p99: int
    maximum: int
    bins: tuple[int, ...]
    limit: int | None
    over: int
    over_rows: tuple[str, ...]


@dataclass(frozen=True)
class SplitCheck:
    """One split of a task, or one file. Lists of examples hold the first 20.

    Attributes:
        duplicates: rows that repeat an earlier one (same text and label up to case and white space; without labels, the
            same columns); duplicate_rows: pairs (`where` of the earlier, `where` of the repeat).
        conflicts: texts that stand in this split under more than one label; conflict_rows: a pair of rows of each.
        labels: label -> rows, most frequent first; empty where rows have no labels.
    """

    path: str
    container: str
    convention: str
    mapping: dict[str, str]
    rows: int
    bad: int
    bad_rows: tuple[BadRow, ...]
    duplicates: int
    duplicate_rows: tuple[tuple[str, str], ...]
    conflicts: int
    conflict_rows: tuple[tuple[str, str], ...]
    labels: dict[str, int]
    lengths: Lengths | None


@dataclass(frozen=True)
class Overlap:
    """Rows of `split` whose text also stands in `other`.

    Attributes:
        rows: rows of `split`; same: equal up to case and white space; near: others with 5-gram Jaccard >= 0.8.
        pairs: first 20 (`where` in split, `where` in other, similarity; 1.0 = the same).
    """

    split: str
    other: str
    rows: int
    same: int
    near: int
    pairs: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class DataCheck:
    """Everything `tunesmith data check` says. `verdicts` are plain sentences, the worst first; none = nothing was found wrong."""

    name: str
    splits: dict[str, SplitCheck]
    overlaps: tuple[Overlap, ...]
    warnings: tuple[str, ...]
    verdicts: tuple[str, ...]


def text_of(example: Example) -> str:
    """Return the text that makes a row the row it is: text, prompt, the turns before the last answer, or all columns."""
    fields = example.fields
    if isinstance(fields.get("text"), str):
        return fields["text"]
    said = fields.get("prompt", fields.get("messages"))
    if isinstance(said, str):
        return said
    if isinstance(said, list):
        last = max((at for at, turn in enumerate(said) if turn["role"] == "assistant"), default=len(said))
        return "\n".join(turn["content"] for turn in said[:last])
    return canonical({key: value for key, value in fields.items() if key != "label"})


def label_of(example: Example) -> str | None:
    """Return a row's label, or None where it has none."""
    label = example.fields.get("label")
    return label if isinstance(label, str) else None


def check(
    name: str,
    splits: Mapping[str, Rows],
    *,
    text_of: Callable[[Example], str] = text_of,
    label_of: Callable[[Example], str | None] = label_of,
    tokens_of: Callable[[Example], int] | None = None,
    max_length: int | None = None,
) -> DataCheck:
    """X-ray a task or a file.

    Args:
        name: of the task or file, for the title.
        splits: split name -> what `formats.read` returned (None for Sniffed where rows come from no file), training rows
            first: later splits are searched for rows of earlier ones.
        text_of: the text by which duplicates and leakage are judged.
        tokens_of: length of a whole row in tokens; without it lengths are characters of `text_of`.
        max_length: longest row in tokens; counts only together with `tokens_of`.
    """
    texts = {split: [normalised(text_of(row)) for row in rows] for split, (rows, _, _) in splits.items()}
    checked = {}
    for split, (rows, bad, sniffed) in splits.items():
        sizes = [tokens_of(row) if tokens_of else len(text_of(row)) for row in rows]
        lengths = _lengths(rows, sizes, "tokens" if tokens_of else "characters", max_length if tokens_of else None)
        checked[split] = _split_check((rows, bad, sniffed), texts[split], [label_of(row) for row in rows], lengths)
    overlaps = tuple(
        _overlap(later, earlier, splits[later][0], splits[earlier][0], (texts[later], texts[earlier]))
        for earlier, later in combinations(splits, 2)
    )
    warnings = tuple(f"{split}: {w}" for split, (_, _, sniffed) in splits.items() if sniffed for w in sniffed.warnings)
    return DataCheck(name, checked, overlaps, warnings, tuple(_verdicts(checked, overlaps)))


def _split_check(split: Rows, texts: Sequence[str], labels: Sequence[str | None], lengths: Lengths | None) -> SplitCheck:
    rows, bad, sniffed = split
    duplicates, conflicts = _duplicates(rows, texts, labels), _conflicts(rows, texts, labels)
    counts = Counter(sorted(label for label in labels if label is not None))
    return SplitCheck(
        path=str(sniffed.path) if sniffed else "",
        container=sniffed.container if sniffed else "",
        convention=sniffed.convention if sniffed else "",
        mapping=dict(sniffed.mapping) if sniffed else {},
        rows=len(rows),
        bad=len(bad),
        bad_rows=tuple(bad[:_KEPT]),
        duplicates=len(duplicates),
        duplicate_rows=tuple(duplicates[:_KEPT]),
        conflicts=len(conflicts),
        conflict_rows=tuple(conflicts[:_KEPT]),
        labels=dict(counts.most_common()),
        lengths=lengths,
    )


def _duplicates(rows: Sequence[Example], texts: Sequence[str], labels: Sequence[str | None]) -> list[tuple[str, str]]:
    first: dict[tuple[str, str], Example] = {}
    found = []
    for row, text, label in zip(rows, texts, labels, strict=True):
        # Without a label two rows may share their prompt and differ in the answer; only equal rows repeat then.
        key = ("", row.id) if label is None else (text, label)
        if first.setdefault(key, row) is not row:
            found.append((first[key].where, row.where))
    return found


def _conflicts(rows: Sequence[Example], texts: Sequence[str], labels: Sequence[str | None]) -> list[tuple[str, str]]:
    first: dict[str, tuple[str, str | None]] = {}
    found: dict[str, tuple[str, str]] = {}
    for row, text, label in zip(rows, texts, labels, strict=True):
        where, earlier = first.setdefault(text, (row.where, label))
        if label is not None and earlier is not None and label != earlier:
            found.setdefault(text, (where, row.where))
    return list(found.values())


def _lengths(rows: Sequence[Example], lengths: Sequence[int], unit: str, limit: int | None) -> Lengths | None:
    if not lengths:
        return None
    ordered = sorted(lengths)
    low, high = ordered[0], ordered[-1]
    step = ceil((high - low + 1) / _BINS)
    bins = [0] * ceil((high - low + 1) / step)
    for length in ordered:
        bins[(length - low) // step] += 1
    over = [row.where for row, length in zip(rows, lengths, strict=True) if limit is not None and length > limit]
    p50, p95, p99 = (ordered[ceil(percent * len(ordered) / 100) - 1] for percent in (50, 95, 99))
    return Lengths(unit, low, p50, p95, p99, high, tuple(bins), limit, len(over), tuple(over[:_KEPT]))


def _overlap(
    split: str, other: str, rows: Sequence[Example], others: Sequence[Example], texts: tuple[Sequence[str], Sequence[str]]
) -> Overlap:
    asked, known = texts
    place: dict[str, str] = {}
    for row, text in zip(others, known, strict=True):
        place.setdefault(text, row.where)
    unique, unsure = list(place), [text for text in asked if text not in place]
    near = dict(zip(unsure, nearest(unsure, unique), strict=True))
    same, close = [], []
    for row, text in zip(rows, asked, strict=True):
        if text in place:
            same.append((row.where, place[text], 1.0))
        elif (found := near[text]) is not None:
            close.append((row.where, place[unique[found[0]]], round(found[1], 3)))
    close.sort(key=lambda pair: -pair[2])
    return Overlap(split, other, len(rows), len(same), len(close), tuple((same + close)[:_KEPT]))


def _of(count: int, total: int, verb: str) -> str:
    """Return "1 of 9 rows stands": the count, and the verb as its number wants it."""
    return f"{count:,} of {total:,} rows {_verb(count, verb)}"


def _verb(count: int, verb: str) -> str:
    return verb if count != 1 else {"have": "has", "are": "is", "cannot": "cannot", "do": "does"}.get(verb, verb + "s")


def _verdicts(splits: Mapping[str, SplitCheck], overlaps: Sequence[Overlap]) -> list[str]:
    """Return what is wrong, in sentences, the worst first."""
    said = [_overlap_verdict(overlap) for overlap in overlaps if overlap.same or overlap.near]
    train = next(iter(splits.values()), None)
    for name, split in splits.items():
        said += [f"{name}: {sentence}." for sentence in (*_label_verdicts(split, train), *_row_verdicts(split))]
    return said


def _overlap_verdict(overlap: Overlap) -> str:
    cost = "its score would be too good" if overlap.same + overlap.near == 1 else "their scores would be too good"
    if not overlap.same:
        count, nearly, more = overlap.near, "nearly", ""
    else:
        count, nearly = overlap.same, "also"
        more = f" and {overlap.near:,} more nearly {_verb(overlap.near, 'do')}" if overlap.near else ""
    return (
        f"{count:,} of {overlap.rows:,} {overlap.split} rows {nearly} {_verb(count, 'stand')} in {overlap.other}{more}: {cost}."
    )


def _row_verdicts(split: SplitCheck) -> Iterator[str]:
    if split.conflicts:
        texts = "1 text" if split.conflicts == 1 else f"{split.conflicts:,} texts"
        yield f"{texts} {_verb(split.conflicts, 'stand')} under more than one label"
    if split.bad:
        yield _of(split.bad, split.rows + split.bad, "cannot") + " be used"
    if split.duplicates:
        yield _of(split.duplicates, split.rows, "repeat") + " an earlier row"
    if split.lengths and split.lengths.over:
        yield _of(split.lengths.over, split.rows, "are") + f" longer than {split.lengths.limit:,} {split.lengths.unit}"


def _label_verdicts(split: SplitCheck, train: SplitCheck | None) -> Iterator[str]:
    labelled = sum(split.labels.values())
    if not labelled:
        return
    if labelled < split.rows:
        yield _of(split.rows - labelled, split.rows, "have") + " no label"
    if train is not None and (unseen := [label for label in split.labels if label not in train.labels]):
        yield f"the training rows never show {_listed(unseen)}"
    largest, count = next(iter(split.labels.items()))
    if len(split.labels) == 1:
        yield f"every row has the label {_listed([largest])}, so there is nothing to tell apart"
    elif count >= 0.8 * labelled:
        yield f"always answering {_listed([largest])} would be right in {count / labelled:.0%} of the rows; judge by macro-F1"
    rare = [label for label, rows in split.labels.items() if rows < _FEW]
    if rare and split is train and split.rows >= _FEW * len(split.labels):
        yield f"there are fewer than {_FEW} rows for {_listed(rare)}"


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 5} more" if len(labels) > 5 else ""
    return ", ".join(f"'{excerpt(label)}'" for label in labels[:5]) + more


def as_dict(checked: DataCheck) -> dict[str, Any]:
    """Return the x-ray as JSON values."""
    return asdict(checked)
