"""What a saved directory is, by the small files in it; no weights are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.models.encoder import HEAD_FILE, KINDS, architecture_of
from tunesmith.models.toy import NAMES
from tunesmith.peft._files import base_of

# In a model or adapter that was tuned on a task: objective, tasks without their rows, and how they are read.
TASK_FILE = "task.json"
REWARD_FILE = "reward.json"
ADAPTER_FILE = "adapter_config.json"
_ARTEFACTS = ("ensemble", "adapter", "model")
_HEADS = {end: head for head, end in KINDS.items() if head != "masked_lm"}
_WHAT = {"classifier": "a classifier", "tokens": "a token classifier", "span": "a model that finds answers in passages"}


def placed(model: str | None, adapter: str | None = None) -> tuple[str, str | None]:
    """Return model and adapter: a run's directory stands for what it made, and an adapter alone for itself on its base.

    Args:
        model: name, directory or hub id; None = the one that `adapter` names.

    Raises:
        UserError: an adapter whose base is not to be found, or no such adapter.
    """
    adapter = str(_made_in(Path(adapter))) if adapter else None
    if model is not None and Path(model).is_dir() and not adapter:
        found = _made_in(Path(model))
        if not (found / ADAPTER_FILE).is_file() or (found / "config.json").is_file():
            return str(found), None
        model, adapter = None, str(found)
    if model is not None:
        return model, adapter
    if not adapter or not Path(adapter).is_dir():
        raise UserError(f"there is no adapter directory '{adapter}'", "Give the folder that holds adapter_config.json.")
    return base_of(Path(adapter)), adapter


def _made_in(folder: Path) -> Path:
    known = ("config.json", ADAPTER_FILE, REWARD_FILE)
    inside = (folder / name for name in _ARTEFACTS)
    if any((folder / name).is_file() for name in known):
        return folder
    return next((one for one in inside if any((one / name).is_file() for name in known)), folder)


def named(config: Any) -> tuple[str, str | None]:
    """Return the `model` and `adapter` that a configuration names, as `placed` does; an adapter beats a model by default.

    Raises:
        UserError: an adapter whose base is not to be found, or no such adapter.
    """
    given = "model" in config.model_fields_set or not config.adapter
    return placed(config.model if given else None, config.adapter)


def task_record(folder: str) -> Mapping[str, Any] | None:
    """Return what a tuned model or adapter says of its tasks; None where it says nothing.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(folder) / TASK_FILE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not record["tasks"]:
            raise ValueError("it names no task")
        return {**record, "objective": str(record["objective"]), "tasks": [dict(task) for task in record["tasks"]]}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise UserError(f"{path} cannot be read: {error}", "Use another copy of the model.") from None


def is_encoder_decoder(model: str) -> bool:
    """Whether a name, directory or hub id is of a model of T5's kind."""
    if model in NAMES:
        return model == "toy-t5"
    try:
        if not Path(model).is_dir() and "/" in model:
            from transformers import AutoConfig

            return bool(AutoConfig.from_pretrained(model, trust_remote_code=False).is_encoder_decoder)
        return bool(json.loads((Path(model) / "config.json").read_text(encoding="utf-8")).get("is_encoder_decoder"))
    except (OSError, ValueError, AttributeError):
        return False


def require_text_model(model: str, adapter: str | None) -> None:
    """Check that what is saved goes on with text.

    Raises:
        UserError: it is a reward model, or was tuned to answer in another way; says what it is, and what opens it.
    """
    folder = adapter or model
    require_no_reward_model(folder)
    if kind := _kind(folder, model, adapter):
        raise UserError(
            f"'{folder}' is {kind} and does not go on with text",
            f"Ask it: tunesmith chat --model {folder}, or ts.load({folder!r}).answer([...]) in Python.",
        )


def require_no_reward_model(folder: str) -> None:
    """Check that what is saved gives answers.

    Raises:
        UserError: it is a reward model; says what it is used with.
    """
    if (Path(folder) / REWARD_FILE).is_file():
        raise UserError(
            f"'{folder}' is a reward model: it scores answers and writes none",
            f"Score with it: ts.load({folder!r}).score([(prompt, answer)]), or align --scorer reward-model:path={folder}.",
        )


def _kind(folder: str, model: str, adapter: str | None) -> str:
    end = next((end for end in _HEADS if architecture_of(folder)[0].endswith(f"For{end}")), "")
    record = task_record(folder) if adapter or end else None
    if end and (not adapter or (Path(adapter) / HEAD_FILE).is_file()):
        return _WHAT[_HEADS[end]] + (f" ({record['objective']})" if record else "")
    if record:
        return f"an adapter for {record['objective']}"
    return "an encoder-decoder" if model not in NAMES and is_encoder_decoder(model) else ""
