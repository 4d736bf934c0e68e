"""Saving what was trained: an adapter directory, or a whole model, that explains itself and loads anywhere."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

from tunesmith import __version__
from tunesmith.core.files import write_manifest, write_text
from tunesmith.models.load import LM
from tunesmith.peft._files import save_adapter


def save_artefact(folder: Path, lm: LM, method: tuple[ModuleType, Any], probe_prompts: list[tuple[int, ...]], title: str) -> Path:
    """Write `adapter/` or `model/` below a run's folder and return it."""
    entry, parameters = method
    target = folder / entry.SAVES
    card = _card(lm, entry, title)
    if entry.SAVES == "adapter":
        save_adapter(target, lm, entry, parameters, probe_prompts, card)
        return target
    target.mkdir(parents=True, exist_ok=True)
    lm.model.save_pretrained(target)
    lm.tokenizer.save_pretrained(target)
    write_text(target / "README.md", card)
    write_manifest(target)
    return target


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
