"""Putting questions to a model, and keeping what it says: a killed run asks only what has not been answered."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import WorkFailed
from tunesmith.core.files import write_jsonl
from tunesmith.data.questions import Question
from tunesmith.evaluate.honesty import DECLINE, TOLD
from tunesmith.models.generate import Sampling, complete, n_times
from tunesmith.models.load import LM
from tunesmith.recipes._honesty.config import Config

_CHUNK = 100
# A model that was shown demonstrations would go on with a next question.
_STOP = ("\n",)


@dataclass(frozen=True)
class Said:
    """A greedy answer, how probable it was as a whole, and answers drawn beside it."""

    text: str
    confidence: float
    samples: tuple[str, ...] = ()


def question_prompt(config: Config, question: Question) -> str:
    """Return how a question is put; the answer comes next."""
    return config.template.replace("{question}", question.text)


def told_prompt(config: Config, prompt: str, answer: str) -> str:
    """Return what a model reads that is told that its answer is wrong, ending as a question ends."""
    return f"{prompt} {answer.strip()}\n{TOLD}\n{config.template.rpartition('{question}')[2].strip() or 'Answer:'}"


def demonstrated(config: Config, shown: Sequence[tuple[Question, str]], instruction: str = "") -> str:
    """Return what comes before the questions of an untrained model: an instruction, and questions with answers."""
    parts = [instruction] if instruction else []
    parts += [f"{question_prompt(config, question)} {answer}" for question, answer in shown]
    return "".join(f"{part}\n\n" for part in parts)


def declining_demonstrations(known: Sequence[Question], unknown: Sequence[Question], n: int) -> list[tuple[Question, str]]:
    """Return n questions with answers, those that are not known answered by "I don't know", one of each in turn."""
    pairs = [(q, q.answers[0]) for q in known[: n - n // 2]]
    others = [(q, DECLINE) for q in unknown[: n // 2]]
    return [pair for both in zip(pairs, others, strict=False) for pair in both] + pairs[len(others) :] + others[len(pairs) :]


def ask(config: Config, lm: LM, prompts: Sequence[str], path: Path, samples: int = 0) -> list[Said]:
    """Ask, greedily and with answers drawn beside, or read what was said in `path`, a JSONL file of one answer a line.

    Raises:
        UserError: a prompt leaves no room for an answer. WorkFailed: the file cannot be read or written.
    """
    kept = _kept(path)[: len(prompts)]
    greedy = Sampling(config.max_new_tokens, 0.0, stop=_STOP)
    drawn = Sampling(config.max_new_tokens, config.temperature, stop=_STOP)
    while len(kept) < len(prompts):
        some = prompts[len(kept) : len(kept) + _CHUNK]
        title = f"{path.stem}: {len(kept):,} of {len(prompts):,}"
        first = n_times(lm.tokenizer, some, 1, lambda ids: complete(lm, ids, greedy, config.seed, title))  # noqa: B023
        others: list[list[Any]] = [[] for _ in some]
        if samples:
            others = n_times(lm.tokenizer, some, samples, lambda ids: complete(lm, ids, drawn, config.seed, title))  # noqa: B023
        for (best,), more in zip(first, others, strict=True):
            sure = math.exp(sum(best.logprobs))
            kept.append(Said(best.text.strip(), sure, tuple(c.text.strip() for c in more)))
        write_jsonl(path, [asdict(said) for said in kept])
    return kept


def _kept(path: Path) -> list[Said]:
    if not path.is_file():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Said(str(row["text"]), float(row["confidence"]), tuple(map(str, row["samples"]))) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkFailed(
            f"the answers kept in {path} cannot be read ({error})", "Delete the file; they are asked again."
        ) from None
