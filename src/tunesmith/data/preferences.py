"""Judgements of completions from any usual file: pairs, rankings with ties, best of k, verdicts, ratings, thumbs, arena dumps.

What a row means is said by its convention (`data.formats`); here the rows become `Preference`s, and rows that are one ranking
together are joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical, text_hash
from tunesmith.core.records import BadRow, Example, Message, Preference
from tunesmith.data import formats
from tunesmith.data._convention_parts import JUDGED_ROWS, JUDGEMENTS
from tunesmith.data._judgements import check_completions, dense, single_answers
from tunesmith.data._readers import RowProblem, excerpt

CONVENTIONS = (*JUDGEMENTS, *JUDGED_ROWS)
# Conventions in which a row is one completion, and those of one prompt or group are one judgement.
_JOINED = ("ranked_row", "rated_row")


def read_preferences(
    path: Path, *, skip_bad_rows: bool = False, mapping: Mapping[str, str] | None = None
) -> tuple[list[Preference], list[str]]:
    """Read a whole file of judgements.

    Args:
        skip_bad_rows: go on without the rows that cannot be used.
        mapping: canonical name -> column, by the user's word ({"prompt": "question"}).

    Returns:
        The judgements in file order, and sentences a person should see once.

    Raises:
        UserError: the file holds no judgements, a row is bad and `skip_bad_rows` is not set, or no row is good.
    """
    sniffed, bad = sniff(path, mapping), list[BadRow]()
    found, skipped = judgements(sniffed, bad)
    formats.require_good(sniffed, len(found), bad, skip_bad_rows=skip_bad_rows)
    warnings = list(sniffed.warnings)
    if skipped:
        warnings.append(f"{skipped:,} rows that their judge skipped were left out")
    if bad:
        warnings.append(f"{len(bad):,} unusable rows were left out; the first: {bad[0].where}: {bad[0].reason}")
    return found, warnings


def sniff(path: Path, mapping: Mapping[str, str] | None = None) -> formats.Sniffed:
    """Tell a file's container and which convention of judgements it follows.

    Raises:
        UserError: it follows none.
    """
    sniffed = formats.sniff(Path(path), mapping, first=CONVENTIONS)
    if sniffed.convention not in CONVENTIONS:
        columns = ", ".join(formats.columns(sniffed))
        raise UserError(
            f"{path} has the columns {columns}, and none of them is a judgement of completions",
            "Say which are: --map.prompt, --map.chosen and --map.rejected COLUMN, or --map.prompt, --map.completion and "
            "--map.rating; docs/methods/preferences.md has every convention.",
        )
    return sniffed


def judgements(sniffed: formats.Sniffed, bad: list[BadRow]) -> tuple[list[Preference], int]:
    """Return a file's judgements in file order, and how many rows their judge skipped.

    Args:
        bad: where rows that cannot be used are put.
    """
    found: list[Preference] = []
    rows: list[Example] = []
    skipped = 0
    for row in formats.rows(sniffed.path, sniffed):
        if isinstance(row, BadRow):
            bad.append(row)
        elif sniffed.convention in _JOINED:
            rows.append(row)
        elif row.fields.get("ranks") == []:
            skipped += 1
        else:
            try:
                found += _of(row)
            except RowProblem as problem:
                bad.append(_bad(row, str(problem)))
    for group in _groups(rows):
        try:
            found.append(_joined(group))
        except RowProblem as problem:
            bad.append(_bad(group[0], str(problem)))
    return found, skipped


def _bad(row: Example, reason: str) -> BadRow:
    return BadRow(row.where, reason, excerpt(canonical(row.fields)))


def _of(row: Example) -> Iterator[Preference]:
    """Return the judgements of a row that is whole by itself; a chat may have several."""
    fields = row.fields
    if "messages" in fields:
        for number, turn in enumerate(fields["messages"]):
            if "rating" in turn and number == 0:
                raise RowProblem("the first turn was judged, and nothing was asked before it")
            if "rating" in turn:
                name = text_hash(row.id, str(number))
                yield _made(row, fields["messages"][:number], [turn["content"]], [1], ratings=[turn["rating"]], name=name)
    elif "chosen" in fields:
        prompt, answers = single_answers(fields["prompt"], {name: fields[name] for name in ("chosen", "rejected")})
        yield _made(row, prompt, answers, [1, 2], ratings=fields.get("ratings"))
    elif "completion" in fields:
        yield _made(row, fields["prompt"], [fields["completion"]], [1], ratings=[fields["rating"]])
    else:
        yield _made(row, fields["prompt"], fields["completions"], fields["ranks"], ratings=fields.get("ratings"))


def _made(
    row: Example, prompt: Any, answers: Sequence[str], ranks: Sequence[int], *, ratings: Sequence[float] | None, name: str = ""
) -> Preference:
    asked = prompt if isinstance(prompt, str) else tuple(Message(turn["role"], turn["content"]) for turn in prompt)
    return Preference(
        name or row.id, asked, tuple(answers), tuple(ranks), row.where, bool(row.fields.get("only_best")),
        tuple(ratings) if ratings is not None else None, row.fields.get("judge"),
    )  # fmt: skip


def _groups(rows: Sequence[Example]) -> list[list[Example]]:
    """Rows of one group, or of one prompt where there are no groups, by one judge.

    Where the file says of nobody who judged, a completion that comes again was judged by somebody else.
    """
    groups: dict[tuple[Any, ...], list[Example]] = {}
    times: dict[tuple[Any, ...], int] = {}
    for row in rows:
        whole = (row.fields.get("group") or canonical(row.fields["prompt"]), row.fields.get("judge"))
        this = (*whole, row.fields["completion"])
        times[this] = times.get(this, -1) + 1
        groups.setdefault((*whole, times[this]), []).append(row)
    return list(groups.values())


def _joined(group: Sequence[Example]) -> Preference:
    first = group[0]
    other = next((row for row in group if row.fields["prompt"] != first.fields["prompt"]), None)
    if other is not None:
        raise RowProblem(f"its group '{first.fields['group']}' has another prompt at {other.where}")
    answers, rated = [row.fields["completion"] for row in group], "rating" in first.fields
    numbers = [row.fields["rating" if rated else "rank"] for row in group]
    if len(group) > 1 or not rated:
        check_completions(first.fields["prompt"], answers)
    ranks = dense([-number for number in numbers] if rated else numbers)
    name = text_hash(*(row.id for row in group))
    return _made(first, first.fields["prompt"], answers, ranks, ratings=numbers if rated else None, name=name)


def comparisons(judgement: Preference) -> Iterator[tuple[int, int, bool]]:
    """Yield (i, j, tie) for all pairs of completions that were compared: i was preferred to j, or they tie and i < j."""
    count = len(judgement.completions)
    for i in range(count):
        for j in range(i + 1, count):
            first, second = judgement.ranks[i], judgement.ranks[j]
            if first == second and judgement.only_best:
                continue
            yield (i, j, first == second) if first <= second else (j, i, False)
