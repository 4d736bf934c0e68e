"""The data x-ray as plain text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from math import ceil

from tunesmith.core.records import BadRow
from tunesmith.data._readers import excerpt
from tunesmith.data.check import DataCheck, Lengths, SplitCheck

_WIDTH = 80
_LABELS = 12
_EXAMPLES = 3
_INDENT = 14
_BLOCKS = " ▁▂▃▄▅▆▇█"


def render(checked: DataCheck) -> str:
    """Return the x-ray as plain text for a terminal of 80 columns, without colour."""
    counts = " + ".join(f"{split.rows + split.bad:,} {name}" for name, split in checked.splits.items())
    bad = sum(split.bad for split in checked.splits.values())
    lines = [f"{checked.name}: {counts.removesuffix(' rows')} rows" + (f", {bad:,} of them bad" if bad else "")]
    for name, split in checked.splits.items():
        lines += ["", *_render_split(name, split)]
    for overlap in checked.overlaps:
        if overlap.pairs:
            pairs = [
                f"{one} {'=' if same == 1.0 else '~'} {two}" + (f" ({same:.2f})" if same < 1 else "")
                for one, two, same in overlap.pairs
            ]
            found = _examples("", pairs, overlap.same + overlap.near)
            lines += ["", f"{overlap.split} rows that stand in {overlap.other} too (= the same, ~ nearly)", *found]
    lines += ["", "To look at" if checked.verdicts or checked.warnings else "Nothing was found wrong."]
    for sentence in (*checked.verdicts, *checked.warnings):
        lines += textwrap.wrap(sentence, _WIDTH, initial_indent="  - ", subsequent_indent="    ")
    return "\n".join(lines) + "\n"


def _render_split(name: str, split: SplitCheck) -> Iterator[str]:
    kind = ", ".join(part for part in (split.container, split.convention) if part)
    yield from textwrap.wrap(f"{name}  {split.path}" + (f"  ({kind})" if kind else ""), _WIDTH, subsequent_indent="  ")
    renamed = [f"{part} is '{column}'" for part, column in split.mapping.items() if part != column]
    if renamed:
        yield from textwrap.wrap(", ".join(renamed), _WIDTH, initial_indent=_label("columns"), subsequent_indent=_label(""))
    yield (
        _label("rows")
        + f"{split.rows:,} good, {split.bad:,} bad, {split.duplicates:,} repeated, {split.conflicts:,} under two labels"
    )
    yield from _render_labels(split.labels)
    if split.lengths:
        yield from _render_lengths(split.lengths)
    yield from _render_bad(split.bad_rows, split.bad)
    yield from _examples("repeated", [f"{again} = {first}" for first, again in split.duplicate_rows], split.duplicates)
    yield from _examples("two labels", [f"{first} and {other}" for first, other in split.conflict_rows], split.conflicts)


def _render_bad(rows: Sequence[BadRow], total: int) -> Iterator[str]:
    """Reasons are never cut, for they say what to mend; how the row begins is shown where there is room."""
    width = _WIDTH - _INDENT
    for at, row in enumerate(rows[:_EXAMPLES]):
        said = textwrap.wrap(f"{row.where}: {row.reason}", width) or [row.where]
        lines = said if len(said) > 1 else [_cut(f"{row.where}: {row.reason}: {row.excerpt}", width)]
        yield from (_label("bad rows" if at == number == 0 else "") + line for number, line in enumerate(lines))
    if total > _EXAMPLES:
        yield _label("") + f"and {total - _EXAMPLES:,} more"


def _render_labels(labels: Mapping[str, int]) -> Iterator[str]:
    total, shown = sum(labels.values()), list(labels.items())[:_LABELS]
    width = min(24, max((_columns(_cut(label, 24)) for label, _ in shown), default=0))
    for at, (label, count) in enumerate(shown):
        cut = _cut(label, width)
        bar = "█" * max(1, round(20 * count / shown[0][1]))
        head = _label("labels" if at == 0 else "")
        yield head + f"{cut}{' ' * (width - _columns(cut))}  {count:>9,}  {count / total:>6.1%}  {bar}"
    if len(labels) > len(shown):
        rest = list(labels.values())[_LABELS:]
        spread = f"{rest[-1]:,}" if rest[0] == rest[-1] else f"{rest[-1]:,} to {rest[0]:,}"
        yield _label("") + f"and {len(rest):,} more labels of {spread} rows each"


def _render_lengths(lengths: Lengths) -> Iterator[str]:
    spread = f"{lengths.minimum:,} to {lengths.maximum:,}; half are up to {lengths.median:,}, 95 % up to {lengths.p95:,}"
    yield _label(lengths.unit) + spread + f", 99 % up to {lengths.p99:,}"
    tallest = max(lengths.bins)
    blocks = "".join(_BLOCKS[ceil(count * 8 / tallest)] for count in lengths.bins)
    yield _label("") + f"{lengths.minimum:,} {blocks} {lengths.maximum:,}"
    if lengths.limit is not None:
        yield _label("over-long") + f"{lengths.over:,} rows over {lengths.limit:,} {lengths.unit}"


def _examples(title: str, texts: Sequence[str], total: int = 0) -> Iterator[str]:
    for at, text in enumerate(texts[:_EXAMPLES]):
        yield _label(title if at == 0 else "") + _cut(text, _WIDTH - _INDENT)
    if max(total, len(texts)) > _EXAMPLES:
        yield _label("") + f"and {max(total, len(texts)) - _EXAMPLES:,} more"


def _label(title: str) -> str:
    return f"  {title:<{_INDENT - 2}}"


def _columns(text: str) -> int:
    """Return how many columns of a terminal a text takes: East Asian wide letters take two, combining marks none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _cut(text: str, width: int) -> str:
    text = excerpt(text)
    if _columns(text) <= width:
        return text
    while _columns(text) > width - 1:
        text = text[:-1]
    return text + "…"
