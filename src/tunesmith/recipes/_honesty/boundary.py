"""From a probe to what there is to learn: which questions are known, and the rows of each training.

R-Tuning (Zhang et al. 2024) keeps a question's answer where the model's own is right and has it say that it does not know
elsewhere. Here there is a band between: where the model is right now and then, its answer is hedged. The cut is by the share
of answers drawn that are right, not by one greedy answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_jsonl, write_text
from tunesmith.data.questions import Question
from tunesmith.evaluate.honesty import ADMIT, CHALLENGE, DECLINE, HEDGE, INSIST, is_right, read_answer
from tunesmith.recipes._honesty.asking import Said, question_prompt, told_prompt
from tunesmith.recipes._honesty.config import Config

# Of so many questions, one is asked again with "That is wrong.": more of them, and little else would be learned.
_TOLD_OF = 4
_TASK = """# {what}
# Learn it by itself: tunesmith tune {name}.yaml --validation_rows 0
name: {name}
data: {{train: {name}.jsonl, test: {name}-test.jsonl}}
template: "{{prompt}} {{answer}}"
answer: answer
"""


@dataclass(frozen=True)
class Probed:
    """What a model knows of a question.

    Attributes:
        share: of the answers drawn, those that are right. right: whether the greedy one is.
    """

    question: Question
    said: Said
    share: float
    right: bool
    known: bool


def probed(config: Config, questions: Sequence[Question], said: Sequence[Said]) -> list[Probed]:
    """Return what the answers say about what is known."""
    found = []
    for question, one in zip(questions, said, strict=True):
        right = [is_right(question, read_answer(text).said) for text in (one.text, *one.samples)]
        share = sum(right[1:]) / len(one.samples)
        found.append(Probed(question, one, share, right[0], share >= config.known_at))
    return found


def check_both_kinds(config: Config, probes: Sequence[Probed]) -> None:
    """Check that some questions are known and some are not.

    Raises:
        UserError: there is no boundary to learn.
    """
    known = sum(p.known for p in probes)
    if known == 0:
        raise UserError(
            f"the probe finds that {config.model} knows none of {len(probes):,} questions: of {config.samples} answers drawn, a "
            f"share of {config.known_at:g} is right to none",
            "Ask easier questions, show more --demonstrations, or lower --known_at.",
        )
    if known == len(probes):
        raise UserError(
            f"the probe finds that {config.model} knows all {len(probes):,} questions, so there is nothing to decline",
            "Ask harder questions, add some without an answer, or raise --known_at.",
        )


def boundary_answer(config: Config, probe: Probed) -> str:
    """Return what the model should say: its answer, the same hedged, that it does not know, or that the premise is false."""
    question = probe.question
    if question.false_premise:
        return CHALLENGE
    if not question.answers:
        return DECLINE
    if probe.known:
        return question.answers[0]
    return HEDGE.format(answer=question.answers[0]) if probe.right or probe.share > 0 else DECLINE


def write_data(config: Config, folder: Path, train: Sequence[Probed], test: Sequence[Probed]) -> None:
    """Write what there is to learn, for people too.

    boundary.jsonl and gold.jsonl with the tasks that read them; prompts.jsonl and key.jsonl for the alignment and its scorer.
    """
    for name, make, what in (
        ("boundary", _boundary_rows, "What this model should say, by what it was found to know (R-Tuning)."),
        ("gold", _gold_rows, "The right answer to every question, known or not."),
    ):
        write_jsonl(folder / f"{name}.jsonl", make(config, train))
        write_jsonl(folder / f"{name}-test.jsonl", make(config, test))
        write_text(folder / f"{name}.yaml", _TASK.format(name=name, what=what))
    keys = key_rows(config, train)
    # With "That is wrong." among them the policy learned to admit whatever it is told, and to decline more (benchmarks/align).
    write_jsonl(folder / "prompts.jsonl", [{"prompt": row["prompt"]} for row in keys if row["was_right"] is None])
    write_jsonl(folder / "key.jsonl", keys)


def _boundary_rows(config: Config, probes: Sequence[Probed]) -> list[dict[str, Any]]:
    rows = []
    for probe in probes:
        about = {"known": probe.known, "share_right": probe.share, "said": probe.said.text, "where": probe.question.where}
        prompt, answer = question_prompt(config, probe.question), boundary_answer(config, probe)
        rows.append({"prompt": prompt, "answer": answer, **about})
    for probe, shown, was_right in _told(config, probes):
        prompt = told_prompt(config, question_prompt(config, probe.question), shown)
        about = {"known": probe.known, "share_right": probe.share, "said": shown, "where": probe.question.where}
        rows.append({"prompt": prompt, "answer": INSIST.format(answer=shown) if was_right else ADMIT, **about})
    return rows


def _gold_rows(config: Config, probes: Sequence[Probed]) -> list[dict[str, Any]]:
    return [
        {"prompt": question_prompt(config, p.question), "answer": p.question.answers[0], "where": p.question.where}
        for p in probes
        if p.question.answers
    ]


def _told(config: Config, probes: Sequence[Probed]) -> list[tuple[Probed, str, bool]]:
    """Return the answers that the model is told are wrong: known ones that are right, and its own that are not."""
    found = []
    for probe in probes[::_TOLD_OF] if config.told else ():
        if probe.known:
            found.append((probe, probe.question.answers[0], True))
        elif not probe.right and read_answer(probe.said.text).doing == "answer":
            found.append((probe, probe.said.text, False))
    return found


def key_rows(config: Config, probes: Sequence[Probed]) -> list[dict[str, Any]]:
    """Return what the scorer must know of each prompt."""
    rows = [
        {
            "prompt": question_prompt(config, p.question), "question": p.question.text, "answers": list(p.question.answers),
            "false_premise": p.question.false_premise, "was_right": None,
        }
        for p in probes
    ]  # fmt: skip
    for probe, shown, was_right in _told(config, probes):
        prompt = told_prompt(config, question_prompt(config, probe.question), shown)
        rows.append({
            "prompt": prompt, "question": probe.question.text, "answers": list(probe.question.answers), "false_premise": False,
            "was_right": was_right,
        })  # fmt: skip
    return rows
