"""The x-ray of judgements: how many of what, what contradicts itself, and what gives the answer away without being read."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from tunesmith.core.records import Preference
from tunesmith.data._overlap import normalised
from tunesmith.data._readers import excerpt
from tunesmith.data.preferences import comparisons
from tunesmith.stats.binomial import interval

_KEPT = 20
_FEW = 20
_SURE = 0.8
_LONG = 40
# prompt and judge -> (the text preferred, the other one, tie, where)
_Compared = dict[tuple[str, str | None], list[tuple[str, str, bool, str]]]


@dataclass(frozen=True)
class Clue:
    """How often something about the texts alone tells which of a pair was preferred.

    Attributes:
        what: "the longer one", or "begins with 'Sure'". right: of n pairs, those in which the preferred one has it.
        low, high: 95 % interval of the share, as if no two pairs shared a prompt.
    """

    what: str
    right: int
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class JudgementCheck:
    """What a set of judgements holds. Lists hold the first 20.

    Attributes:
        judgements, prompts, judges: how many. pairs: preferred and not; ties: pairs judged equal.
        wanted, unwanted, rated: completions judged by themselves: 1, 0, or another number.
        contradictions: pairs of texts that one judge (or nobody in particular) judged in two ways, with where.
        cycles: a > b > c > a by one judge, as texts, with where. disagreements: of `shared` pairs that several judged, those
            not all judged alike.
        clues: what gives the answer away without being read; the first is length.
        leaked: completions that stand in the other file too, with where in both.
    """

    judgements: int
    prompts: int
    judges: int
    pairs: int
    ties: int
    wanted: int
    unwanted: int
    rated: int
    contradictions: int
    contradiction_rows: tuple[tuple[str, str], ...]
    cycles: int
    cycle_rows: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]
    shared: int
    disagreements: int
    clues: tuple[Clue, ...]
    leaked: int
    leaked_rows: tuple[tuple[str, str], ...]

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)


def check(judgements: Sequence[Preference], other: Sequence[Preference] = ()) -> JudgementCheck:
    """X-ray judgements.

    Args:
        other: those of another file, whose completions must not stand in this one.
    """
    compared, alone = _Compared(), Counter[str]()
    for one in judgements:
        if len(one.completions) == 1 and one.ratings:
            alone[{1.0: "wanted", 0.0: "unwanted"}.get(one.ratings[0], "rated")] += 1
        for i, j, tie in comparisons(one):
            pair = (one.completions[i], one.completions[j], tie, one.where)
            compared.setdefault((asked(one), one.judge), []).append(pair)
    contradictions, cycles = list[tuple[str, str]](), list[tuple[tuple[str, ...], tuple[str, ...]]]()
    for pairs in compared.values():
        twice = list(_contradictions(pairs))
        contradictions += [where for _, where in twice]
        cycles += _cycles(pairs, {pair for pair, _ in twice})
    shared, disagreements = _disagreements(compared)
    strict = [pair for pairs in compared.values() for pair in pairs if not pair[2]]
    leaked = list(_leaked(judgements, other))
    return JudgementCheck(
        judgements=len(judgements), prompts=len({asked(one) for one in judgements}),
        judges=len({one.judge for one in judgements}), pairs=len(strict), ties=sum(map(len, compared.values())) - len(strict),
        wanted=alone["wanted"], unwanted=alone["unwanted"], rated=alone["rated"],
        contradictions=len(contradictions), contradiction_rows=tuple(contradictions[:_KEPT]),
        cycles=len(cycles), cycle_rows=tuple(cycles[:_KEPT]), shared=shared, disagreements=disagreements,
        clues=tuple(_clues(strict)), leaked=len(leaked), leaked_rows=tuple(leaked[:_KEPT]),
    )  # fmt: skip


def asked(judgement: Preference) -> str:
    """Return what was asked as one text, by which judgements of the same prompt are found."""
    prompt = judgement.prompt
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


def longest_text(fields: Mapping[str, Any]) -> str:
    """Return the prompt with the longest completion of a row of judgements; "" of any other row."""
    answers = fields.get("completions") or [fields[name] for name in ("chosen", "rejected", "completion") if name in fields]
    if "prompt" not in fields or not answers:
        return ""
    said = [
        text if isinstance(text, str) else "\n".join(turn["content"] for turn in text) for text in (fields["prompt"], *answers)
    ]
    return said[0] + max(said[1:], key=len)


def _contradictions(pairs: Iterable[tuple[str, str, bool, str]]) -> Iterator[tuple[frozenset[str], tuple[str, str]]]:
    first: dict[frozenset[str], tuple[str, str]] = {}
    said: set[frozenset[str]] = set()
    for better, worse, tie, where in pairs:
        pair, outcome = frozenset((better, worse)), "" if tie else better
        before, place = first.setdefault(pair, (outcome, where))
        if before != outcome and pair not in said:
            said.add(pair)
            yield pair, (place, where)


def _cycles(
    pairs: Sequence[tuple[str, str, bool, str]], contradicted: set[frozenset[str]]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield cycles a > b > ... > a: texts, and where each step was judged. A tie may stand for >, but not for all of them.

    Of one knot of texts one cycle is named, the shortest from the first pair that lies in one.
    """
    at_least: dict[str, dict[str, str]] = defaultdict(dict)
    for better, worse, tie, where in pairs:
        if frozenset((better, worse)) not in contradicted:
            at_least[better].setdefault(worse, where)
            if tie:
                at_least[worse].setdefault(better, where)
    named: set[str] = set()
    for better, worse, tie, _ in pairs:
        if tie or frozenset((better, worse)) in contradicted or better in named:
            continue
        if back := _shortest(at_least, worse, better):
            named.update(back)
            texts = (better, *back)
            yield texts, tuple(at_least[a][b] for a, b in pairwise(texts))


def _shortest(steps: Mapping[str, Mapping[str, str]], start: str, end: str) -> tuple[str, ...]:
    """Return the shortest way from start to end, both included; () where there is none."""
    before: dict[str, str | None] = {start: None}
    waiting = deque([start])
    while waiting and end not in before:
        here = waiting.popleft()
        for there in steps.get(here, ()):
            if there not in before:
                before[there] = here
                waiting.append(there)
    way, here = list[str](), end if end in before else None
    while here is not None:
        way.append(here)
        here = before[here]
    return tuple(reversed(way))


def _disagreements(compared: _Compared) -> tuple[int, int]:
    """Return how many pairs several judges compared, and of how many of these they said different things."""
    outcomes: dict[tuple[str, frozenset[str]], dict[str, str]] = defaultdict(dict)
    for (prompt, judge), pairs in compared.items():
        for better, worse, tie, _ in pairs:
            if judge is not None:
                outcomes[prompt, frozenset((better, worse))].setdefault(judge, "" if tie else better)
    several = [set(said.values()) for said in outcomes.values() if len(said) > 1]
    return len(several), sum(len(said) > 1 for said in several)


def _clues(pairs: Sequence[tuple[str, str, bool, str]]) -> Iterator[Clue]:
    """Yield how often the longer text won, and each first word that won or lost nearly always."""
    differ = [len(better) > len(worse) for better, worse, _, _ in pairs if len(better) != len(worse)]
    if differ:
        yield _clue("the longer one", sum(differ), len(differ))
    won, lost = Counter[str](), Counter[str]()
    for better, worse, _, _ in pairs:
        first, other = _first_word(better), _first_word(worse)
        if first != other:
            won[first] += 1
            lost[other] += 1
    words = [word for word, _ in (won + lost).most_common() if word and won[word] + lost[word] >= _FEW]
    for word in words:
        n = won[word] + lost[word]
        share = won[word] / n
        # Of many words some look telling by chance: the level of the interval is that of all words together.
        low, high = interval(won[word], n, 1 - 0.05 / len(words))
        if max(share, 1 - share) >= _SURE and not low <= 0.5 <= high:
            yield _clue(f"begins with '{word}'", won[word], n)


def _first_word(text: str) -> str:
    return excerpt(text.split(maxsplit=1)[0])[:30] if text.split() else ""


def _clue(what: str, right: int, n: int) -> Clue:
    return Clue(what, right, n, *interval(right, n))


def _leaked(judgements: Sequence[Preference], other: Sequence[Preference]) -> Iterator[tuple[str, str]]:
    """Yield where a completion stands in both: a long one, or the same answer to the same prompt; "Yes." may come again."""
    known: dict[str, str] = {}
    for one in other:
        for text in map(normalised, one.completions):
            known.setdefault(text if len(text) >= _LONG else f"{normalised(asked(one))}\n{text}", one.where)
    for one in judgements:
        for text in map(normalised, one.completions):
            there = known.get(text if len(text) >= _LONG else f"{normalised(asked(one))}\n{text}")
            if there is not None:
                yield one.where, there


def verdicts(checked: JudgementCheck, other: str = "the other file") -> list[str]:
    """Return what is wrong, in sentences, the worst first; `other` is the name of the other file."""
    said = []
    if checked.leaked:
        said.append(f"{checked.leaked:,} completions stand in {other} too: a score on either would be too good.")
    if checked.cycles:
        texts, where = checked.cycle_rows[0]
        shown = " > ".join(f"'{excerpt(text)[:24]}'" for text in texts)
        places = ", ".join(dict.fromkeys(where))
        cycles = _many(checked.cycles, "cyclic judgement")
        said.append(f"{cycles}, which no reward can follow; the first: {shown} ({places}).")
    if checked.contradictions:
        one, two = checked.contradiction_rows[0]
        said.append(f"{_many(checked.contradictions, 'pair')} judged in two ways; the first: {one} and {two}.")
    for clue in checked.clues:
        share = clue.right / clue.n
        if clue.what == "the longer one" and (clue.low > 0.5 or clue.high < 0.5) and max(share, 1 - share) >= 0.6:
            side, right = ("longer", share) if share > 0.5 else ("shorter", 1 - share)
            low, high = sorted((clue.low, clue.high) if share > 0.5 else (1 - clue.low, 1 - clue.high))
            said.append(
                f"Preferring the {side} of two texts, unread, is right in {right:.0%} of {clue.n:,} pairs "
                f"({low:.0%} to {high:.0%}): a model may learn length and nothing else."
            )
        elif clue.what != "the longer one":
            said.append(
                f"Of two texts the one that {clue.what} won {clue.right:,} of {clue.n:,} times: a model may learn that word."
            )
    return said


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'s'[: count != 1]}"


def lines(checked: JudgementCheck) -> list[str]:
    """Return the counts for a terminal."""
    parts = [
        f"{_many(checked.judgements, 'judgement')} of {_many(checked.prompts, 'prompt')}",
        f"{_many(checked.pairs, 'pair')} and {_many(checked.ties, 'tie')}" if checked.pairs or checked.ties else "",
        f"{checked.wanted:,} wanted and {checked.unwanted:,} unwanted by themselves"
        if checked.wanted or checked.unwanted
        else "",
        f"{checked.rated:,} rated by themselves" if checked.rated else "",
    ]
    found = ["; ".join(filter(None, parts))]
    if checked.shared:
        found.append(f"{checked.shared:,} pairs have several judges, who disagree on {checked.disagreements:,}")
    for clue in checked.clues[:1]:
        found.append(f"the longer of two won {clue.right:,} of {clue.n:,} ({clue.low:.0%} to {clue.high:.0%})")
    return found
