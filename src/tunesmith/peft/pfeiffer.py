"""Pfeiffer adapters: one bottleneck in each block, after the feed-forward part and its norm (Pfeiffer et al. 2020, section 3).

With r the output of the feed-forward part, x its input and N the norm that follows: N(x + r + f(N(x + r))), f(h) =
W_up relu(W_down h + b) + b'. Blocks that normalise at their beginning (Llama, GPT-2, T5) have no such N: s + f(s) with s = x + r.
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
from tunesmith.peft import _bottleneck
from tunesmith.peft._layers import block_of, is_end, place, plain_rates, require_roles, switched_off, trainable, widths

PEFT_TYPE = "PFEIFFER"
SAVES = "adapter"
TITLE = "Pfeiffer 1/{reduction}"
# As with Houlsby adapters: near the identity, and not on it.
IDENTITY_AT_START = False
LEARNING_RATE = 1e-4
rates, state, load_state = plain_rates, _bottleneck.state, _bottleneck.load_state
_NORMS_AFTER = ("output.LayerNorm", "output_layer_norm")


class Parameters(Config):
    """What Pfeiffer adapters can be told."""

    reduction: int = Field(16, ge=1)
    """the model's width over m, the numbers in the middle"""


def attach(model: Any, parameters: Parameters, seed: int) -> dict[str, nn.Parameter]:
    """Freeze the model and put one bottleneck into every block.

    Returns:
        The trained parameters, by name.

    Raises:
        UserError: it is not known where this kind of model's blocks end.
    """
    ends = require_roles(model, "pfeiffer", "output")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    norms = {block_of(n): n for n, _ in model.named_modules() if any(is_end(n, e) for e in _NORMS_AFTER) and _of_block(n)}
    for name in ends:
        layer, block = model.get_submodule(name), block_of(name)
        width = widths(layer)[1]
        size = max(width // parameters.reduction, 1)
        bottleneck = _bottleneck.Bottleneck(width, size, nn.functional.relu, layer.weight, generator).train(model.training)
        if block in norms:
            place(model, norms[block], _bottleneck.AroundNorm(model.get_submodule(norms[block]), bottleneck))
        else:
            _bottleneck.put_behind(model.get_submodule(block), bottleneck)
    return trainable(model)


def _of_block(name: str) -> bool:
    """Whether a norm follows a block's feed-forward part, and not its attention."""
    return "attention" not in name


@contextmanager
def disabled(model: Any) -> Iterator[None]:
    """Take the bottlenecks away inside a with-block: the model is bitwise its base."""
    with switched_off(_bottleneck.bottlenecks(model).values()):
        yield


def merge(model: Any) -> None:
    """Refuse: an activation stands in between.

    Raises:
        UserError: always.
    """
    _bottleneck.refuse_merge("Pfeiffer")


def to_peft_config(model: Any, parameters: Parameters) -> dict[str, Any]:
    """Return the method's part of `adapter_config.json`; PEFT has no such method, so the keys are our own."""
    return parameters.model_dump()


def from_peft_config(config: dict[str, Any]) -> Parameters:
    """Read the method's part of `adapter_config.json`.

    Raises:
        UserError: a value that is not read.
    """
    return validate(Parameters, {key: config[key] for key in Parameters.model_fields if key in config}, "adapter_config.json")


def evaluate(down: Sequence[Sequence[float]], up: Sequence[Sequence[float]], s: Sequence[float]) -> list[float]:
    """Return what a norm with a bottleneck inside makes of s, for the worked example."""
    norm = nn.LayerNorm(len(s), eps=1e-12)
    bottleneck = _bottleneck.Bottleneck(len(s), len(down), nn.functional.relu, norm.weight, torch.Generator())
    _bottleneck.fill(bottleneck, down, up)
    return _bottleneck.AroundNorm(norm, bottleneck)(torch.tensor(s)).tolist()


def worked_example() -> WorkedExample:
    """s = (1, 1, -1, -1), W_down = [1 0 0 0], W_up = (0, 0, 0, 4)."""
    inputs = {"down": [[1.0, 0.0, 0.0, 0.0]], "up": [[0.0], [0.0], [0.0], [4.0]], "s": [1.0, 1.0, -1.0, -1.0]}
    how = "N(s) = s; f = relu(1) (0, 0, 0, 4); s + f = (1, 1, -1, 3) with mean 1 and variance 8 / 4: (0, 0, -2, 2) / sqrt 2"
    return WorkedExample(inputs, [0.0, 0.0, -(2**0.5), 2**0.5], how, wrong={**inputs, "s": [-1.0, -1.0, 1.0, 1.0]})
