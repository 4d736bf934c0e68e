"""What prompt tuning, prefix tuning and P-tuning share: putting a soft prefix on a model, and its one tensor in PEFT's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tunesmith.core.errors import UserError
from tunesmith.models.soft_prefix import SoftPrefix

_SAVED = "prompt_embeddings"


class Values(nn.Module):
    """Values [p, W] that are trained themselves."""

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.float())

    def forward(self) -> torch.Tensor:
        """Return them."""
        return self.values


def attach_prefix(model: Any, soft: SoftPrefix) -> dict[str, nn.Parameter]:
    """Freeze a model and put a soft prefix on it, in the place of an earlier one.

    Returns:
        The trained parameters, by name. They are float32 whatever the model's precision: a soft prefix is small, and what
        it is made of is rounded only where the model reads it.

    Raises:
        UserError: the model is no decoder, and would not read it.
    """
    if model.config.is_encoder_decoder or not model.can_generate():
        raise UserError(
            f"a soft prompt or prefix stands before what a decoder reads, and a {type(model).__name__} is none",
            "Use another method, for example lora or bitfit.",
        )
    model.requires_grad_(False)
    model.soft_prefix = soft.to(model.device).train(model.training)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Take the prefix away inside a with-block: the model is bitwise its base."""
    soft = _on(model)
    soft.enabled = False
    try:
        yield
    finally:
        soft.enabled = True


def merge(model: nn.Module) -> None:
    """Refuse: a prefix is read, not added to any weight.

    Raises:
        UserError: always.
    """
    raise UserError(
        "a soft prompt or prefix cannot be merged into the weights: it is input that the model reads first",
        "Use it as --adapter; it stays a small file beside its base.",
    )


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the prefix [p, W] under the name PEFT gives it; what it was made by in training (MLP, LSTM) is left out."""
    with torch.no_grad():
        return {_SAVED: _on(model).values().detach().float().cpu().contiguous().clone()}


def load_state(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy a saved prefix into one that was attached without an MLP or LSTM.

    Raises:
        UserError: the tensor is missing, not alone or of another shape.
    """
    values: torch.Tensor = _on(model).encoder.values  # type: ignore[assignment]
    for name in sorted({_SAVED} ^ set(tensors)):
        raise UserError(f"the adapter does not fit this model: tensor {name} is {'missing' if name == _SAVED else 'unexpected'}")
    if tensors[_SAVED].shape != values.shape:
        shapes = f"{list(tensors[_SAVED].shape)}, the model needs {list(values.shape)}"
        raise UserError(f"the adapter does not fit this model: {_SAVED} is {shapes}")
    with torch.no_grad():
        values.copy_(tensors[_SAVED])


def cache_shape(model: Any) -> tuple[int, int, int]:
    """Return layers, heads of keys and values, and the width of one."""
    config = model.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, heads, width


def sizes_for_peft(model: Any, token_dim: int, heads: int) -> dict[str, Any]:
    """Return the keys that every soft prompt has in PEFT's `adapter_config.json`."""
    return {
        "num_virtual_tokens": _on(model).length,
        "token_dim": token_dim,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": model.config.num_hidden_layers,
    }


def check_decoder_only(config: dict[str, Any]) -> None:
    """Refuse a prefix that is meant for an encoder as well.

    Raises:
        UserError: it has one part for each of two submodules.
    """
    if config.get("num_transformer_submodules") not in (None, 1):
        raise UserError("the adapter has a prompt for an encoder and a decoder, which this version does not read")


def _on(model: Any) -> SoftPrefix:
    soft: SoftPrefix = model.soft_prefix
    return soft
