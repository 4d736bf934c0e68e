"""Reading the answer out of generated reasoning, and voting over many answers.

An answer is what follows the last "the answer is" (Wei et al. 2022, appendix; Kojima et al. 2022, section 3): a choice found as
a whole word, a number, or the rest of the sentence. Text without one has the answer "", which never takes part in a vote
and is always counted (Wang et al. 2023: argmax_a sum_i 1[a_i = a]).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from tunesmith.core.records import Example
from tunesmith.data.task import Task

_TRIGGER = re.compile(r"\banswer(?:\s*\([^()\n]{0,40}\))?\s*(?:is|:)\s*:?", re.IGNORECASE)
# Forty digits are more than any answer has; an exponent could ask for gigabytes of zeros and is not read.
_DIGITS = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3}){1,12}|[0-9]{1,40})(?:\.[0-9]{1,40})?|\.[0-9]{1,40})(?![0-9])"
_CURRENCY = "[$€£¥]"
_NUMBER = re.compile(rf"(?<![\w.])(?P<sign>[-+−]?)\s?{_CURRENCY}?\s?(?P<minus>[-−]?)(?P<digits>{_DIGITS})")
_AFTER_NUMBER = re.compile(rf"\s?(?:%|percent\b|{_CURRENCY})?\.?")
# A full stop ends a sentence, but not after an initial or a short title (St. Louis, Dr. No).
_SENTENCE_END = re.compile(r"\n|(?<!\b[A-Z])(?<!\b[A-Z][a-z])[.!?](?=\s)")
_SAMPLE = 200


@dataclass(frozen=True)
class Extraction:
    """How answers to one task are read from text.

    Attributes:
        kind: "choice" finds one of the words, "number" the first number, "text" takes the rest of the sentence.
        words: label -> the words that stand for it; empty unless the kind is "choice".
    """

    kind: Literal["choice", "number", "text"]
    words: Mapping[str, tuple[str, ...]]

    def answer(self, text: str) -> str:
        """Return the answer stated last in `text`, "" where none can be read: a label, a plain number, or words."""
        said = [text[match.end() :] for match in _TRIGGER.finditer(text)]
        if not said:
            return ""
        if self.kind == "choice":
            return _choice(said[-1], self.words)
        if self.kind == "number":
            found = _NUMBER.search(_SENTENCE_END.split(said[-1].strip(), maxsplit=1)[0])
            return _plain(found) if found else ""
        return canonical(_SENTENCE_END.split(said[-1].strip(), maxsplit=1)[0])


def extraction_for(task: Task, train: Sequence[Example]) -> Extraction:
    """Return how a task's answers are read: its choices, else yes and no or numbers where all training answers are such."""
    if task.verbalizer:
        return Extraction("choice", {label: (*words, label) for label, words in task.verbalizer.words.items()})
    golds = [task.gold(row).strip() for row in train[:_SAMPLE]]
    if {gold.casefold() for gold in golds} <= {"yes", "no"}:
        written = {gold.casefold(): gold for gold in golds}
        return Extraction("choice", {written.get(word, word): (word,) for word in ("yes", "no")})
    if all(number(gold) for gold in golds):
        return Extraction("number", {})
    return Extraction("text", {})


def number(text: str) -> str:
    """Return a text that is one number in its plain form ("$18.0" = "18.00%" = "18" -> "18"), "" for any other text."""
    found = _NUMBER.match(text.strip())
    return _plain(found) if found and _AFTER_NUMBER.fullmatch(text.strip()[found.end() :]) else ""


def canonical(answer: str) -> str:
    """Return an answer as it is compared and shown: numbers in plain form, other text without outer quotes and full stop."""
    bare = " ".join(answer.split()).strip("\"'`“”‘’*")
    return number(bare) or bare.rstrip(".!").rstrip("\"'`”’* ")


def same(a: str, b: str) -> bool:
    """Whether two answers are one: "18.0" and "$18" are, as are "Paris." and "paris"."""
    return canonical(a).casefold() == canonical(b).casefold()


@dataclass(frozen=True)
class Vote:
    """The outcome of a vote.

    Attributes:
        answer: the winner, "" where every path was invalid. counts: answer -> votes, in the order first seen.
        invalid: paths without an answer that could be read.
    """

    answer: str
    counts: dict[str, int]
    invalid: int

    @property
    def shares(self) -> dict[str, float]:
        """Each answer's share of the valid paths; they sum to 1."""
        valid = sum(self.counts.values())
        return {answer: count / valid for answer, count in self.counts.items()}


def vote(answers: Sequence[str | float]) -> Vote:
    """Count answers as `same` compares them: the most frequent wins, the first seen where several are."""
    shown: dict[str, str] = {}
    counts: dict[str, int] = {}
    for answer in answers:
        text = canonical(str(answer))
        if text:
            name = shown.setdefault(text.casefold(), text)
            counts[name] = counts.get(name, 0) + 1
    # max returns the first of equals, and a dictionary keeps the order in which its keys came.
    winner = max(counts, key=lambda name: counts[name], default="")
    return Vote(winner, counts, len(answers) - sum(counts.values()))


def _plain(found: re.Match[str]) -> str:
    value = Decimal(found["digits"].replace(",", ""))
    text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    negative = (found["sign"] in ("-", "−")) != (found["minus"] in ("-", "−")) and value != 0
    return f"-{text}" if negative else text


def _choice(said: str, words: Mapping[str, tuple[str, ...]]) -> str:
    """Return the label whose word stands first, the longest of those that begin there; "" if none, or "X or Y", "X and Y"."""
    line = said.strip().split("\n")[0]
    found = []
    for label, of_label in words.items():
        for word in dict.fromkeys(of_label):
            if match := re.search(_word_pattern(word), line, 0 if len(word) == 1 else re.IGNORECASE):
                found.append((match.start("word"), -len(word), match.end("word"), label))
    if not found:
        return ""
    _, _, end, label = min(found)
    hedged = re.match(r"\W{0,3}(?:or\b|and\b|/)\W{0,3}(?:(?:an?|the)\s)?", line[end:])
    if hedged and any(start == end + hedged.end() and other != label for start, _, _, other in found):
        return ""
    return label


def _word_pattern(word: str) -> str:
    escaped = re.escape(word)
    if len(word) > 1 or not word.isalpha():
        return rf"(?<!\w)(?<!\bnot )(?<!\bnot an )(?<!\bnot a )(?P<word>{escaped})(?!\w)"
    # "a" is a choice in "(a)" and "a.", and an article in "a dog".
    return rf"(?<!\w)(?P<word>{escaped})(?=\s*(?:[.,:;)\]]|$))"
