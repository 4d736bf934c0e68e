"""Weights of the model itself that are trained while the rest is frozen: what BitFit and `selective` share.

The base's values of these weights are kept beside them, so a model can still be its base; the file holds the new values.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tunesmith.core.errors import UserError
from tunesmith.peft._layers import PREFIX, copy_in, linear_layers, saved, trainable

# What transformers calls having biases in the two halves of a block, in its configurations of the Llama kind.
_FLAGS = ("attention_bias", "mlp_bias")


@dataclass(frozen=True)
class Selected:
    """Which weights are trained: the base's values by name, and layers that were given a bias."""

    base: dict[str, torch.Tensor]
    added: tuple[str, ...]


def attach_selected(model: Any, names: Sequence[str], added: Sequence[str] = ()) -> dict[str, nn.Parameter]:
    """Train these parameters of a model, and biases of zero that these layers are given; the rest stays as it is.

    Returns:
        The trained parameters, by name.
    """
    kept = {name: model.get_parameter(name).detach().clone() for name in names}
    for name in names:
        model.get_parameter(name).requires_grad_(True)
    for layer in added:
        _give_bias(model.get_submodule(layer), trained=True)
    model.selected = Selected(kept, tuple(added))
    return trainable(model)


def _give_bias(layer: Any, trained: bool) -> None:
    weight = layer.weight
    layer.bias = nn.Parameter(torch.zeros(len(weight), dtype=weight.dtype, device=weight.device), requires_grad=trained)


def _now(model: Any) -> dict[str, torch.Tensor]:
    names = [*model.selected.base, *(f"{layer}.bias" for layer in model.selected.added)]
    return {PREFIX + name: model.get_parameter(name) for name in names}


@contextmanager
def disabled(model: Any) -> Iterator[None]:
    """Put the base's values back inside a with-block: the model is bitwise its base."""
    parameters = {name: model.get_parameter(name) for name in model.selected.base}
    layers = [model.get_submodule(name) for name in model.selected.added]
    tuned, biases = {name: p.data for name, p in parameters.items()}, [layer.bias for layer in layers]
    try:
        for name, parameter in parameters.items():
            parameter.data = model.selected.base[name]
        for layer in layers:
            layer.bias = None
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = tuned[name]
        for layer, bias in zip(layers, biases, strict=True):
            layer.bias = bias


def merge(model: Any) -> None:
    """Let the new values be the model's own; biases that it had not are written into its configuration.

    Raises:
        UserError: its configuration cannot say that it has biases.
    """
    if model.selected.added:
        if not all(hasattr(model.config, flag) for flag in _FLAGS):
            raise UserError(
                f"biases were added to a {type(model).__name__}, whose own files have no place for them: they cannot be merged",
                "Use the adapter beside its base.",
            )
        for name in linear_layers(model):
            if model.get_submodule(name).bias is None:
                _give_bias(model.get_submodule(name), trained=False)
        for flag in _FLAGS:
            setattr(model.config, flag, True)
    del model.selected


def state(model: Any) -> dict[str, torch.Tensor]:
    """Return the new values, under the model's own names."""
    return {name: saved(tensor) for name, tensor in _now(model).items()}


def load_state(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Copy saved values into the selected weights.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; names it.
    """
    copy_in(_now(model), tensors)
