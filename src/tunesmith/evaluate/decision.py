"""Typed decisions: scores of options become calibrated probabilities, and an answer or an abstention.

    from tunesmith.evaluate.decision import Decider, question_of

    decider = Decider.fit(question_of(["negative", "positive"]), scores, gold)       # scores: label -> nats, one a row
    decider.decide({"negative": -3.1, "positive": -2.2})                             # Decision(answer="positive", ...)

The scores may come from anything that tells its options apart: log-probabilities of a prompted, soft-prompted or tuned
decoder, or logits of a classifier.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json
from tunesmith.core.registry import CALIBRATORS
from tunesmith.evaluate.calibrators._softmax import softmax

Kind = Literal["choice", "score", "yes_no"]
FILE = "decider.json"
FEWEST_ROWS = 30
NEVER = 2.0  # no probability reaches it
_YES = ({"yes", "no"}, {"true", "false"}, {"1", "0"})
_LARGEST_FILE = 1 << 24


@dataclass(frozen=True)
class Question:
    """What is asked.

    Attributes:
        kind: "choice" of one option, "score" on a scale (options are numbers, lowest first), or "yes_no" (yes first).
        options: two or more labels, in the order of all probabilities.
    """

    kind: Kind
    options: tuple[str, ...]


def question_of(labels: Sequence[str], kind: Kind | Literal["auto"] = "auto") -> Question:
    """Return the question that labels answer; "auto" = yes_no for yes/no or true/false, score for numbers, else choice.

    Raises:
        UserError: the labels cannot answer a question of that kind, or are fewer than two.
    """
    if len(labels) < 2 or len(set(labels)) != len(labels):
        raise UserError(f"a question needs two or more different options, and these are {', '.join(labels) or 'none'}")
    said = {label.casefold(): label for label in labels}
    numbers = {label: _number(label) for label in labels}
    if kind == "auto":
        kind = "yes_no" if set(said) in _YES[:2] else "choice" if None in numbers.values() else "score"
    if kind == "yes_no":
        if set(said) not in _YES:
            raise UserError(f"'{', '.join(labels)}' do not answer a yes/no question", "Use yes and no, or --kind choice.")
        yes = next(word for word in ("yes", "true", "1") if word in said)
        return Question("yes_no", (said.pop(yes), *said.values()))
    if kind == "score":
        if None in numbers.values():
            word = next(label for label, number in numbers.items() if number is None)
            raise UserError(f"the option '{word}' is no number, so it has no place on a scale", "Use --kind choice.")
        return Question("score", tuple(sorted(labels, key=lambda label: numbers[label] or 0.0)))
    return Question("choice", tuple(labels))


def _number(label: str) -> float | None:
    try:
        value = float(label)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


@dataclass(frozen=True)
class Decision:
    """The answer to one question.

    Attributes:
        answer: the most probable option, None where the decider abstains.
        probabilities: of all options. confidence: the largest of them.
        value: of a score, its expected number; of yes_no, the probability of yes; of a choice, None.
    """

    answer: str | None
    probabilities: dict[str, float]
    confidence: float
    value: float | None


@dataclass(frozen=True)
class Decider:
    """A question, how scores become probabilities, and when to keep silent.

    Attributes:
        calibration: name of the calibrator. state: its fitted numbers.
        abstain_below: answers where the largest probability is at least this; 0 = always, `NEVER` = never.
        about: what else its file says: rows it was fitted on, guarantee, model, prompt.
    """

    question: Question
    calibration: str
    state: dict[str, Any]
    abstain_below: float = 0.0
    about: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def fit(
        cls, question: Question, scores: Sequence[Mapping[str, float]], gold: Sequence[str], calibration: str = "temperature"
    ) -> Self:
        """Fit a calibrator on held-out rows: rows that the scores' model was neither trained nor chosen on.

        Args:
            scores: per row, option -> log-probability or logit. gold: per row, the right option.

        Raises:
            UserError: too few rows, one right answer for all, an unknown label or calibrator, or scores that are not finite.
        """
        entry = CALIBRATORS.get(calibration)
        table, index = _table(question, scores), check_rows(question, gold)
        if len(table) != len(index):
            raise UserError(f"{len(table)} rows of scores and {len(index)} right answers do not fit each other")
        return cls(question, calibration, entry.fit(table, index), about={"rows": len(index)})

    def probabilities(self, scores: Sequence[Mapping[str, float]]) -> np.ndarray:
        """Return calibrated probabilities [n, K], in the order of the question's options.

        Raises:
            UserError: a score is missing or not finite.
        """
        return CALIBRATORS.get(self.calibration).apply(self.state, _table(self.question, scores))

    def decide(self, scores: Mapping[str, float]) -> Decision:
        """Answer one question from its options' scores.

        Raises:
            UserError: a score is missing or not finite.
        """
        row = self.probabilities([scores])[0]
        best = int(row.argmax())
        options, confidence = self.question.options, float(row[best])
        value = {
            "choice": None,
            "score": sum(p * (_number(option) or 0.0) for p, option in zip(row.tolist(), options, strict=True)),
            "yes_no": float(row[0]),
        }[self.question.kind]
        answer = options[best] if confidence >= self.abstain_below else None
        return Decision(answer, dict(zip(options, row.tolist(), strict=True)), confidence, value)

    def abstaining(self, abstain_below: float, **about: Any) -> Self:
        """Return the same decider with a threshold, and what its file should say about it."""
        return replace(self, abstain_below=abstain_below, about={**self.about, **about})

    def save(self, folder: Path) -> None:
        """Write `decider.json`: plain numbers and text.

        Raises:
            WorkFailed: the disk could not take it.
        """
        write_json(folder / FILE, {"format": 1, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UserError: there is none, or it is not as written.
        """
        path = folder / FILE
        try:
            if path.stat().st_size > _LARGEST_FILE:
                raise UserError(f"{path} is larger than any decider is")
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.pop("format") != 1:
                raise ValueError("its format is unknown")
            question = question_of(content["question"]["options"], content["question"]["kind"])
            decider = cls(**{**content, "question": question, "abstain_below": float(content["abstain_below"])})
            row = decider.probabilities([dict.fromkeys(question.options, 0.0)])[0]
            if row.shape != (len(question.options),) or not np.isclose(row.sum(), 1):
                raise ValueError("its calibrator gives no probabilities")
        except FileNotFoundError:
            raise UserError(f"{folder} holds no decider ({FILE})", "Make one: tunesmith decide TASK.") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(f"{path} cannot be read ({error})", "Make it again: tunesmith decide TASK.") from None
        return decider


def uncalibrated(question: Question, scores: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Return the softmax of the scores [n, K]: what the model says before calibration.

    Raises:
        UserError: a score is missing or not finite.
    """
    return softmax(_table(question, scores))


def check_rows(question: Question, gold: Sequence[str]) -> np.ndarray:
    """Return the place of each right answer among the options [n], having seen that a calibrator can be fitted on them.

    Raises:
        UserError: too few rows, one right answer for all, or an answer that is no option.
    """
    index = gold_index(question, gold)
    if len(index) < FEWEST_ROWS:
        raise UserError(
            f"calibration needs at least {FEWEST_ROWS} held-out rows, and there are {len(index)}",
            "Give the task more validation rows.",
        )
    if len(set(gold)) == 1:
        raise UserError(
            f"all {len(index)} held-out rows have the answer '{gold[0]}', which teaches nothing about the others",
            "Give the task validation rows of every label.",
        )
    return index


def gold_index(question: Question, gold: Sequence[str]) -> np.ndarray:
    """Return the place of each right answer among the options: [n] int64.

    Raises:
        UserError: an answer is no option.
    """
    place = {option: k for k, option in enumerate(question.options)}
    for row, answer in enumerate(gold, 1):
        if answer not in place:
            raise UserError(f"row {row} has the answer '{answer}', which is none of {', '.join(question.options)}")
    return np.array([place[answer] for answer in gold], dtype=np.int64)


def _table(question: Question, scores: Sequence[Mapping[str, float]]) -> np.ndarray:
    for row, one in enumerate(scores, 1):
        for option in question.options:
            if not np.isfinite(one.get(option, np.nan)):
                raise UserError(f"row {row} has no finite score for the option '{option}'")
    return np.array([[one[option] for option in question.options] for one in scores], dtype=np.float64)
