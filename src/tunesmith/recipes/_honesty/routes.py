"""The ways of answering that are compared: untrained, prompted, with a threshold, fine-tuned two ways, and aligned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.data.questions import Question
from tunesmith.evaluate.honesty import Outcome, is_right, judge, judge_when_told, read_answer, thresholds_for
from tunesmith.models.load import LM
from tunesmith.recipes import align, merge, tune
from tunesmith.recipes._honesty.asking import Said, ask, question_prompt, told_prompt
from tunesmith.recipes._honesty.config import Config
from tunesmith.recipes._models import load
from tunesmith.rl.reward_table import RewardTable

_ANSWERS = ("answer", "hedge")
# Of the policy, from one round of answers: sampling costs more than learning.
_UPDATES = 4


@dataclass(frozen=True)
class Route:
    """How one way of answering did.

    Attributes:
        said, outcomes: one a test question. told: of the answers that were then called wrong: was it right, and the outcome.
        note: what a reader should know of it.
    """

    name: str
    said: list[Said]
    outcomes: list[Outcome]
    told: list[tuple[bool, Outcome]]
    note: str


def heard(config: Config, lm: LM, name: str, before: str, questions: Sequence[Question], folder: Path, note: str) -> Route:
    """Ask a model all test questions, and what it says when told that its answer is wrong.

    Args:
        before: what it reads before each question. folder: where its answers are kept.
    """
    prompts = [before + question_prompt(config, question) for question in questions]
    said = ask(config, lm, prompts, folder / f"{name}.jsonl")
    outcomes: list[Outcome] = [judge(question, one.text) for question, one in zip(questions, said, strict=True)]
    told: list[tuple[bool, Outcome]] = []
    if config.told:
        shown = [
            (told_prompt(config, prompt, one.text), is_right(question, reading.said))
            for prompt, question, one in zip(prompts, questions, said, strict=True)
            if (reading := read_answer(one.text)).doing in _ANSWERS
        ]
        replies = ask(config, lm, [prompt for prompt, _ in shown], folder / f"{name}-told.jsonl")
        told = [(right, judge_when_told(right, reply.text)) for (_, right), reply in zip(shown, replies, strict=True)]
    return Route(name, said, outcomes, told, note)


def thresholded(table: RewardTable, name: str, route: Route, judged: Sequence[tuple[float, bool]], where: str) -> Route:
    """Return a route's answers, hedged or withheld below the confidences that are best on other questions.

    Args:
        judged: of each of these questions how sure the same model was, and whether it was right. where: what they are.
    """
    hedge_from, answer_from = thresholds_for(
        table, np.array([sure for sure, _ in judged]), np.array([right for _, right in judged])
    )
    outcomes: list[Outcome] = []
    for one, outcome in zip(route.said, route.outcomes, strict=True):
        if one.confidence < hedge_from:
            outcomes.append("declined")
        elif one.confidence < answer_from and outcome in ("correct", "wrong"):
            outcomes.append("hedged_correct" if outcome == "correct" else "hedged_wrong")
        else:
            outcomes.append(outcome)
    note = (
        f"the answers of {route.name}, hedged from a probability of {hedge_from:.3f} and plain from {answer_from:.3f} on, "
        f"which is best on {len(judged):,} {where}"
    )
    return Route(name, route.said, outcomes, [], note)


def judged_on(config: Config, lm: LM, questions: Sequence[Question], path: Path) -> list[tuple[float, bool]]:
    """Ask a tuned model questions that nothing learned from: how sure it is of each answer, and whether that is right."""
    said = ask(config, lm, [question_prompt(config, question) for question in questions], path)
    return [(one.confidence, judge(question, one.text) == "correct") for question, one in zip(questions, said, strict=True)]


def tuned(config: Config, folder: Path, name: str) -> tuple[LM, Path]:
    """Fine-tune on the rows of data/NAME.jsonl, or take what was trained; returns the model and its adapter or weights."""
    settings = {
        "data": str(folder / "data" / f"{name}.yaml"), "model": config.model, "peft": config.peft, "epochs": config.epochs,
        "learning_rate": config.learning_rate, "validation_rows": 0, "test_rows": 0, "guard": False, "dtype": config.dtype,
        "threads": config.threads, "seed": config.seed, "run_dir": str(folder / name), "max_memory_gb": config.max_memory_gb,
    }  # fmt: skip
    artefact = Path(tune.run(tune.Config(**settings))["artefact"])
    return _opened(config, artefact), artefact


def aligned(config: Config, folder: Path, start: Path) -> tuple[LM, Path]:
    """Let the fine-tuned model learn from the reward table; its reference is the fine-tuned model itself.

    Args:
        start: adapter or weights of the route boundary.
    """
    model = start
    if start.name == "adapter":
        model = folder / "start" / "model"
        if not (folder / "start" / "MANIFEST.json").is_file():
            into: dict[str, Any] = {"run_dir": str(folder / "start"), "overwrite": True, "threads": config.threads}
            merge.run(merge.Config(adapters=[str(start)], model=config.model, **into))
    data = folder / "data"
    settings = {
        "data": str(data / "prompts.jsonl"), "method": config.method, "model": str(model), "peft": config.peft,
        "scorer": {"name": "honesty", "key": str(data / "key.jsonl"), **config.learned},
        "steps": config.steps, "rollouts": config.rollouts, "batch_size": -(-config.rollouts // _UPDATES),
        "max_new_tokens": config.max_new_tokens, "beta": config.beta,
        "learning_rate": config.align_learning_rate, "dtype": config.dtype, "threads": config.threads, "seed": config.seed,
        "run_dir": str(folder / "aligned"), "max_memory_gb": config.max_memory_gb,
    }  # fmt: skip
    artefact = Path(align.run(align.Config(**settings))["artefact"])
    return load(str(model), str(artefact), config.dtype), artefact


def _opened(config: Config, artefact: Path) -> LM:
    if artefact.name == "adapter":
        return load(config.model, str(artefact), config.dtype)
    return load(str(artefact), None, config.dtype)
