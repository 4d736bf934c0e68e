"""Asking a tuned model on the command line: a text or a row in, an answer with its probability out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.models import remote
from tunesmith.recipes._open.kinds import ADAPTER_FILE, require_no_reward_model
from tunesmith.recipes._open.opening import open_tuned
from tunesmith.recipes._open.tuned import Answer, Tuned

_OF_DECODERS = ("system", "temperature", "top_p", "seed")


def tuned_of(model: str, adapter: str | None, dtype: str, question: str | None) -> Tuned | None:
    """Return what is to be talked to if it does not go on with text; None for a decoder.

    Raises:
        UserError: a question that is a directory, a reward model, or no such model or adapter.
    """
    if question and any(os.path.isfile(os.path.join(question, name)) for name in ("config.json", ADAPTER_FILE, "run.json")):
        raise UserError(f"'{question}' is a directory, not a question", f"tunesmith chat --model {question}")
    if remote.is_url(model):
        return None
    require_no_reward_model(adapter or model)
    return open_tuned(model, adapter, dtype)


def answer_lines(tuned: Tuned, settings: Mapping[str, Any], lines: Iterable[str]) -> dict[str, Any]:
    """Answer the one question of the settings, or each line, printed as it comes.

    Args:
        settings: of `tunesmith chat`, those that were given.

    Returns:
        status, answers (input, value, probabilities, shown) and single.

    Raises:
        UserError: a setting that such a model does not have, or a line that it cannot read.
    """
    others = {*_OF_DECODERS, *([] if tuned.writes else ["max_new_tokens"])} & {*settings}
    if others:
        raise UserError(f"{', '.join(sorted(others))}: not for a model that was tuned for {tuned.objective}", "Leave it out.")
    question, most, answers = settings.get("say"), settings.get("max_new_tokens"), []
    for line in [question] if question else lines:
        task, read = _read(line, tuned)
        (found,) = tuned.answer([read], task, most)
        answers.append({"input": read, "value": found.value, "probabilities": found.probabilities, "shown": shown(found)})
        if not question:
            sys.stdout.write(f"{answers[-1]['shown']}\n")
            sys.stdout.flush()
    return {"status": "done", "answers": answers, "single": bool(question)}


def _read(line: str, tuned: Tuned) -> tuple[str | None, Any]:
    """Read a line as a text, or as a row in JSON, which names its task where there are several."""
    if not line.lstrip().startswith("{"):
        return None, line
    try:
        row = json.loads(line)
    except ValueError:  # a text may begin so
        return None, line
    return (row.pop("task", None) if len(tuned.tasks) > 1 else None), row


def shown(answer: Answer) -> str:
    """Return an answer as a person reads it: "positive 0.981"; "(no answer)" for none."""
    if isinstance(answer.value, float):
        return f"{answer.value:g}"
    if answer.probability is not None:
        return f"{answer.value} {answer.probability:.3f}"
    if isinstance(answer.value, list) and answer.probabilities:
        return ", ".join(f"{label} {answer.probabilities[label]:.3f}" for label in answer.value) or "(no label)"
    return (" ".join(answer.value) if isinstance(answer.value, list) else str(answer.value)) or "(no answer)"
