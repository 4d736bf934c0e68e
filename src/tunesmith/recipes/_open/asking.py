"""Asking a tuned model on the command line: a text or a row in, an answer with its probability out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tunesmith.core.errors import UserError
from tunesmith.models import remote
from tunesmith.recipes._open.kinds import ADAPTER_FILE, named, require_no_reward_model
from tunesmith.recipes._open.opening import open_tuned
from tunesmith.recipes._open.tuned import Answer, Tuned

if TYPE_CHECKING:
    from tunesmith.recipes.chat import Config

_OF_DECODERS = ("system", "temperature", "top_p", "seed")


def tuned_of(config: Config) -> tuple[str, str | None, Tuned | None]:
    """Return the model and adapter that are to be talked to, and what they are if they do not go on with text.

    Raises:
        UserError: a question that is a directory, a reward model, or no such model or adapter.
    """
    if config.say and any(os.path.isfile(os.path.join(config.say, name)) for name in ("config.json", ADAPTER_FILE, "run.json")):
        raise UserError(f"'{config.say}' is a directory, not a question", f"tunesmith chat --model {config.say}")
    if remote.is_url(config.model):
        return config.model, config.adapter, None
    model, adapter = named(config)
    require_no_reward_model(adapter or model)
    return model, adapter, open_tuned(model, adapter, config.dtype)


def answer_lines(tuned: Tuned, config: Config, lines: Iterable[str]) -> dict[str, Any]:
    """Answer each line, printed as it comes unless it is the only one.

    Returns:
        status, answers (input, value, probabilities, shown) and single.

    Raises:
        UserError: a setting that such a model does not have, or a line that it cannot read.
    """
    given = [name for name in _OF_DECODERS if name in config.model_fields_set]
    given += ["max_new_tokens"] if "max_new_tokens" in config.model_fields_set and not tuned.writes else []
    if given:
        raise UserError(f"{', '.join(given)}: not for a model that was tuned for {tuned.objective}", "Leave it out.")
    most, answers = config.max_new_tokens if "max_new_tokens" in config.model_fields_set else None, []
    for line in lines:
        task, read = _read(line, tuned)
        (found,) = tuned.answer([read], task, most)
        answers.append({"input": read, "value": found.value, "probabilities": found.probabilities, "shown": shown(found)})
        if not config.say:
            sys.stdout.write(f"{answers[-1]['shown']}\n")
            sys.stdout.flush()
    return {"status": "done", "answers": answers, "single": bool(config.say)}


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
