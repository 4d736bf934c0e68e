"""Houlsby adapters: h + W_up gelu(W_down h + b) + b' after attention and feed-forward, and norms (Houlsby et al. 2019, 2.1).

Both stand before the residual is added. The model is frozen but for its norms, which learn too, as in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field
from torch import nn

from tunesmith.core.config import Config, validate
from tunesmith.core.records import WorkedExample
from tunesmith.peft import _bottleneck, _selected
from tunesmith.peft._layers import PREFIX, plain_rates, require_roles, switched_off, trainable, widths
from tunesmith.peft.selective import Parameters as Selection
from tunesmith.peft.selective import selected_names

PEFT_TYPE = "HOULSBY"
SAVES = "adapter"
TITLE = "Houlsby {size}"
# Weights of the order of 1e-3 on both sides: near the identity, and not on it, or one of the two would get no gradient.
IDENTITY_AT_START = False
# The middle of the paper's three.
LEARNING_RATE = 3e-4
rates = plain_rates


class Parameters(Config):
    """What Houlsby adapters can be told."""

    size: int = Field(64, ge=1)
    """m, numbers in the middle; the paper tries 8, 64 and 256"""
    norms: bool = True
    """train the model's norms too, as published"""


def attach(model: Any, parameters: Parameters, seed: int) -> dict[str, nn.Parameter]:
    """Freeze the model and put a bottleneck behind both halves of every block.

    Returns:
        The trained parameters, by name.

    Raises:
        UserError: it is not known where this kind of model's halves end.
    """
    names = require_roles(model, "houlsby", "attention_output", "output")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        layer = model.get_submodule(name)
        width = widths(layer)[1]
        bottleneck = _bottleneck.Bottleneck(width, parameters.size, nn.functional.gelu, layer.weight, generator)
        _bottleneck.put_after(model, name, bottleneck.train(model.training))
    _selected.attach_selected(model, selected_names(model, Selection(parts="norms")) if parameters.norms else ())
    return trainable(model)


@contextmanager
def disabled(model: Any) -> Iterator[None]:
    """Take bottlenecks and new norms away inside a with-block: the model is bitwise its base."""
    with switched_off(_bottleneck.bottlenecks(model).values()), _selected.disabled(model):
        yield


def merge(model: Any) -> None:
    """Refuse: an activation stands in between.

    Raises:
        UserError: always.
    """
    _bottleneck.refuse_merge("Houlsby")


def state(model: Any) -> dict[str, torch.Tensor]:
    """Return bottlenecks and norms under the names they have in the model."""
    return _bottleneck.state(model) | _selected.state(model)


def load_state(model: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Copy saved tensors into bottlenecks and norms.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; names it.
    """
    norms = {name: t for name, t in tensors.items() if name.removeprefix(PREFIX) in model.selected.base}
    _selected.load_state(model, norms)
    _bottleneck.load_state(model, {name: t for name, t in tensors.items() if name not in norms})


def to_peft_config(model: Any, parameters: Parameters) -> dict[str, Any]:
    """Return the method's part of `adapter_config.json`; PEFT has no such method, so the keys are our own."""
    return parameters.model_dump()


def from_peft_config(config: dict[str, Any]) -> Parameters:
    """Read the method's part of `adapter_config.json`.

    Raises:
        UserError: a value that is not read.
    """
    return validate(Parameters, {key: config[key] for key in Parameters.model_fields if key in config}, "adapter_config.json")


def evaluate(down: Sequence[Sequence[float]], up: Sequence[Sequence[float]], h: Sequence[float]) -> list[float]:
    """Return what a bottleneck behind the identity makes of h, without biases, for the worked example."""
    base = nn.Linear(len(h), len(h), bias=False)
    base.weight.data = torch.eye(len(h))
    bottleneck = _bottleneck.Bottleneck(len(h), len(down), nn.functional.gelu, base.weight, torch.Generator())
    _bottleneck.fill(bottleneck, down, up)
    return _bottleneck.AfterLinear(base, bottleneck)(torch.tensor(h)).tolist()


def worked_example() -> WorkedExample:
    """h = (1, 2), W_down = [1 0], W_up = (2, 3)."""
    inputs = {"down": [[1.0, 0.0]], "up": [[2.0], [3.0]], "h": [1.0, 2.0]}
    how = "W_down h = 1; gelu(1) = 1 x Phi(1) = 0.8413447; h + 0.8413447 (2, 3) = (1 + 1.6826895, 2 + 2.5240342)"
    return WorkedExample(inputs, [2.6826895, 4.5240342], how, wrong={**inputs, "h": [2.0, 1.0]})
