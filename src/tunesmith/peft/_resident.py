"""Saved LoRA adapters made resident on one loaded base (see `models.residents`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.models.residents import Factors, Residents, residents_of
from tunesmith.peft import lora
from tunesmith.peft._files import load_adapter, read_config


def add_adapter(lm: Any, name: str, folder: Path) -> Residents:
    """Load a saved adapter beside those that are on the model already; nothing is switched.

    It is attached to the bare model first, as a single one would be: its files are checked and its probe is replayed.

    Raises:
        UserError: no adapter, not a plain LoRA, one for another base or shape, or a name that is taken.
        WorkFailed: the probe's logits do not come back.
    """
    if not folder.is_dir():
        raise UserError(f"there is no adapter directory '{folder}'", "Give the folder that holds adapter_config.json.")
    config = read_config(folder)
    peft_type = config.get("peft_type")
    if peft_type != lora.PEFT_TYPE:
        raise UserError(
            f"{folder} is a {peft_type} adapter, and only LoRA adapters can share a model", "Load it by itself: --adapter."
        )
    if config.get("modules_to_save"):
        raise UserError(f"{folder} is more than a plain LoRA, and only that can share a model", "Load it by itself: --adapter.")
    residents = residents_of(lm.model)
    if residents is None:
        residents = lm.model.residents = Residents(lm.model)
    mounted = residents.unmount()
    try:
        load_adapter(lm, folder)
        factors = _taken_off(lm.model, folder)
    finally:
        lora.take_off(lm.model)
        residents.mount(mounted)
    residents.put(name, factors)
    return residents


def _taken_off(model: Any, folder: Path) -> dict[str, Factors]:
    layers = lora.layers(model)
    if set(lora.state(model)) != {f"base_model.model.{name}.lora_{x}.weight" for name in layers for x in "AB"}:
        raise UserError(f"{folder} is more than a plain LoRA, and only that can share a model", "Load it by itself: --adapter.")
    return {name: (layer.lora_A, layer.lora_B, layer.scaling) for name, layer in layers.items()}
