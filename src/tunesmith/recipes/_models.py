"""Opening a decoder with its adapter: what every recipe calls that goes on with text."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.memory import limit_kernels, use_large_pages
from tunesmith.models import remote
from tunesmith.models.engine import Engine
from tunesmith.models.load import LM
from tunesmith.models.load import load as load_base
from tunesmith.peft._files import Attached, load_adapter
from tunesmith.peft._resident import add_adapter
from tunesmith.recipes._open.kinds import require_text_model


def load(
    model: str, adapter: str | None = None, dtype: str = "auto", device: str = "auto", adapters: Mapping[str, str] | None = None
) -> LM:
    """Load a model by embedded name, directory or hub id, with a saved adapter on it, or several to switch between.

    Args:
        adapters: name -> directory of LoRA adapters; `lm.adapters.switch(name)` chooses one, and none is chosen yet.

    Raises:
        UserError: no such model or adapter, they do not fit each other, or both `adapter` and `adapters`.
        WorkFailed: an adapter's probe does not come back (not applied, or the wrong base).
    """
    if adapter and adapters:
        raise UserError("adapter and adapters exclude each other", "Give all of them as adapters, and switch to one.")
    lm = load_attached(model, adapter, dtype, device)[0]
    for name, folder in (adapters or {}).items():
        add_adapter(lm, name, Path(folder))
    return lm


def load_attached(model: str, adapter: str | None, dtype: str = "auto", device: str = "auto") -> tuple[LM, Attached | None]:
    """Load as `load` does, and return the adapter's own method and tensors too, so that they can be trained further.

    Raises:
        UserError: no such model or adapter, or they do not fit each other.
        WorkFailed: the adapter's probe does not come back (not applied, or the wrong base).
    """
    quiet_libraries()
    if remote.is_url(model):
        raise UserError("a model behind a URL has no weights here", "Give an embedded name, a model directory or a hub id.")
    if adapter and not Path(adapter).is_dir():
        raise UserError(f"there is no adapter directory '{adapter}'", "Give the folder that holds adapter_config.json.")
    require_text_model(model, adapter)
    lm = load_base(model, dtype, device)
    return lm, load_adapter(lm, Path(adapter)) if adapter else None


def open_engine(model: str, dtype: str = "auto", adapter: str | None = None) -> Engine:
    """Open whoever is to answer: a model as `load` does, or one behind an OpenAI-compatible URL.

    Raises:
        UserError: no such model or adapter, or an adapter for a model behind a URL.
        WorkFailed: the server cannot be reached.
    """
    if not remote.is_url(model):
        return load(model, adapter, dtype)
    if adapter:
        raise UserError("an adapter cannot be put on a model behind a URL", "Load it where the server runs.")
    quiet_libraries()
    return remote.connect(model)


def quiet_libraries() -> None:
    """Leave stderr to our own words: no progress bars or advice from the libraries underneath."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("torch").setLevel(logging.ERROR)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def use_threads(count: int | None) -> None:
    """Use `count` processor threads, None = as many as the process may run on; memory in large pages, and few kept kernels."""
    use_large_pages()
    limit_kernels()
    torch.set_num_threads(count or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
