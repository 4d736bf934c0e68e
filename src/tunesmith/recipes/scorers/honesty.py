"""A reward table over correct, hedged correct, "I don't know", hedged wrong and wrong answers (Schulman 2023)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.core.errors import UserError
from tunesmith.recipes._honesty.config import Table

if TYPE_CHECKING:
    from tunesmith.train.rollouts import Answer, Scorer


class Parameters(Table):
    """The table, and the file that knows the right answers."""

    key: str
    """JSONL rows with prompt, question, answers, false_premise and was_right (of an answer the prompt calls wrong)"""


def open(parameters: Parameters) -> Scorer:
    """Read the key and return the scorer.

    Raises:
        UserError: the key cannot be read, or the table has a wrong sign.
    """
    from tunesmith.data.questions import Question
    from tunesmith.evaluate.honesty import judge, judge_when_told, worth
    from tunesmith.rl.reward_table import RewardTable

    table = RewardTable(**parameters.model_dump(exclude={"key"}))
    known: dict[str, tuple[Question, bool | None]] = {}
    path = Path(parameters.key)
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            where = f"{path.name}:{number}"
            question = Question(where, str(row["question"]), tuple(map(str, row["answers"])), where, bool(row["false_premise"]))
            known[row["prompt"]] = (question, row["was_right"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the key {path} cannot be read ({error})", "Give the key.jsonl that `tunesmith honesty` wrote."
        ) from None

    def score(answers: Sequence[Answer]) -> Sequence[float]:
        scores = []
        for answer in answers:
            if answer.prompt not in known:
                raise UserError(f"{path} does not know the prompt {answer.prompt[:80]!r}", "Align on the prompts beside it.")
            question, was_right = known[answer.prompt]
            outcome = judge(question, answer.text) if was_right is None else judge_when_told(was_right, answer.text)
            scores.append(worth(table, outcome))
        return scores

    return score
