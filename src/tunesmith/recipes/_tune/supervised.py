"""What an objective of `tune` makes of a model and data: all there is to train with, apart from the peft method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.models.load import LM
from tunesmith.peft._files import Attached, load_adapter
from tunesmith.recipes._tune.rows import Rows
from tunesmith.train.engines.local import LossOf
from tunesmith.train.fit import Validation


@dataclass(frozen=True)
class Supervised:
    """A model that can be trained on rows.

    Attributes:
        prompts: token ids of a few inputs, for the probe that is saved with an adapter.
        validation: what to measure on validation rows; None without any.
        adapter: one that is on the model already and is trained further.
        heads: names of modules that are new, and trained whatever the peft method trains.
        task_type: what Hugging Face PEFT calls a model with such a head.
        finish: what is set by validation rows once the weights are final, before they are saved.
        asked: what is kept beside the weights so that they can be asked again: the tasks without rows, and how they are read;
            {} for a decoder that goes on with text.
    """

    lm: LM
    rows: Rows
    loss_of: LossOf
    prompts: list[tuple[int, ...]]
    validation: Validation | None = None
    adapter: Attached | None = None
    heads: tuple[str, ...] = ()
    task_type: str = "CAUSAL_LM"
    finish: Callable[[], None] = field(default=lambda: None)
    asked: Mapping[str, Any] = field(default_factory=dict)


def with_adapter(lm: LM, folder: str | None) -> Attached | None:
    """Attach a saved adapter, if one is named.

    Raises:
        UserError: there is no such directory, or it does not fit the model.
    """
    if folder and not Path(folder).is_dir():
        raise UserError(f"there is no adapter directory '{folder}'", "Give the folder that holds adapter_config.json.")
    return load_adapter(lm, Path(folder)) if folder else None
