"""Saving what was trained: an adapter directory, or a whole model, that explains itself and loads anywhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError

from tunesmith import __version__
from tunesmith.core.errors import WorkFailed
from tunesmith.core.files import sync_directory, write_json, write_manifest, write_text
from tunesmith.models.encoder import HEAD_FILE, heads_of
from tunesmith.models.load import LM
from tunesmith.peft._files import save_adapter
from tunesmith.recipes._open.kinds import TASK_FILE


def save_artefact(
    folder: Path,
    lm: LM,
    method: tuple[ModuleType, Any],
    probe_prompts: list[tuple[int, ...]],
    title: str,
    heads: Sequence[str] = (),
    task_type: str = "CAUSAL_LM",
    asked: Mapping[str, Any] | None = None,
) -> Path:
    """Write `adapter/` or `model/` below a run's folder, whole or not at all, and return it.

    Args:
        heads: modules that were trained whole beside an adapter. task_type: what PEFT calls a model with such a head.
        asked: what `task.json` says, so that it can be asked again; None = there is none.

    Raises:
        WorkFailed: the disk could not take it.
    """
    entry, parameters = method
    target, stage = folder / entry.SAVES, folder / f".{entry.SAVES}.tmp"
    shutil.rmtree(stage, ignore_errors=True)
    try:
        stage.mkdir(parents=True)
        if asked:
            write_json(stage / TASK_FILE, asked)
        if entry.SAVES == "adapter":
            _save_head(stage, lm)
            save_adapter(stage, lm, entry, parameters, probe_prompts, _card(lm, entry, title), heads, task_type)
        else:
            _save_model(stage, lm, _card(lm, entry, title))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(stage, target)
        sync_directory(folder)
    except (OSError, SafetensorError) as error:
        raise WorkFailed(f"cannot write {target}: {error}", "Free some space; the same command then only saves.") from error
    return target


def _save_head(folder: Path, lm: LM) -> None:
    """Say what head the adapter's model has, for its config.json says it only of the base."""
    if not lm.model.can_generate() and heads_of(lm.model):
        write_json(folder / HEAD_FILE, {**lm.model.config.to_dict(), "architectures": [type(lm.model).__name__]})


def _save_model(folder: Path, lm: LM, card: str) -> None:
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    write_text(folder / "README.md", card)
    write_manifest(folder)


def _card(lm: LM, entry: ModuleType, title: str) -> str:
    base = Path(lm.name).name
    library = "peft" if entry.SAVES == "adapter" else "transformers"
    head = ["---", f"base_model: {base}", f"library_name: {library}"]
    head += ["base_model_relation: adapter"] if entry.SAVES == "adapter" else []
    body = [
        "---", "", f"# {title} of {base}", "",
        f"Trained with Tunesmith {__version__}. `run.json` and `metrics.jsonl` beside this folder say how.",
        f"Weights of the base: {lm.identity}.", "",
    ]  # fmt: skip
    return "\n".join(head + body)
