"""Prefix tuning: trained keys and values of p positions at every layer, the model frozen (Li & Liang 2021, section 4).

In training they come out of an MLP, P = W2 tanh(W1 P' + b1) + b2 (section 4.3), because training them directly is unstable;
afterwards only P is kept. A prefix of zeros is not the identity: attention's weight moves to it all the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import nn

from tunesmith.core.config import Config, validate
from tunesmith.core.records import WorkedExample
from tunesmith.models.soft_prefix import SoftPrefix
from tunesmith.peft import _prefix
from tunesmith.peft._layers import plain_rates

PEFT_TYPE = "PREFIX_TUNING"
SAVES = "adapter"
TITLE = "prefix {tokens}"
IDENTITY_AT_START = False
disabled, merge, state, load_state = _prefix.disabled, _prefix.merge, _prefix.state, _prefix.load_state
rates = plain_rates
LEARNING_RATE = 1e-3


class Parameters(Config):
    """What prefix tuning can be told."""

    tokens: int = Field(10, ge=1, le=200)
    """p, positions at every layer"""
    hidden: int | None = Field(512, ge=1)
    """width of the MLP that makes them in training; null = train keys and values themselves, as when an adapter is trained on"""


class _Reparametrised(nn.Module):
    """[p, W] out of a small matrix P' [p, D] by a two-layer MLP with tanh."""

    def __init__(self, tokens: int, width: int, hidden: int, values: int) -> None:
        super().__init__()
        self.small = nn.Parameter(torch.randn(tokens, width))
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, values))

    def forward(self) -> torch.Tensor:
        return self.mlp(self.small)


def attach(model: Any, parameters: Parameters, seed: int) -> dict[str, nn.Parameter]:
    """Freeze the model and put p positions of trained keys and values in front of every layer's own.

    Returns:
        The trained parameters, by name; those of the MLP are among them.
    """
    shape = _prefix.cache_shape(model)
    values = 2 * math.prod(shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if parameters.hidden is None:
            encoder: nn.Module = _prefix.Values(torch.randn(parameters.tokens, values))
        else:
            encoder = _Reparametrised(parameters.tokens, model.config.hidden_size, parameters.hidden, values)
    return _prefix.attach_prefix(model, SoftPrefix(encoder, parameters.tokens, shape))


def to_peft_config(model: Any, parameters: Parameters) -> dict[str, Any]:
    """Return the method's part of PEFT's `adapter_config.json`: of the prefix alone, whose MLP is not kept."""
    _, heads, width = _prefix.cache_shape(model)
    return {**_prefix.sizes_for_peft(model, heads * width, heads), "prefix_projection": False}


def from_peft_config(config: dict[str, Any]) -> Parameters:
    """Read the method's part of PEFT's `adapter_config.json`.

    Raises:
        UserError: a number of tokens that is not read, or a prefix for an encoder too.
    """
    _prefix.check_decoder_only(config)
    return validate(Parameters, {"tokens": config.get("num_virtual_tokens"), "hidden": None}, "adapter_config.json")


def evaluate(values: Sequence[Sequence[float]], query: float, key: float, value: float) -> float:
    """Attend from one position of width 1 to a prefix and to itself, for the worked example.

    Args:
        values: the prefix [p, 2] as it is saved: key, value.
    """
    soft = SoftPrefix(_prefix.Values(torch.tensor(values)), len(values), (1, 1, 1))
    ((keys, contents),) = soft.key_values(torch.float32)
    own_key, own_value, q = (torch.tensor(number).view(1, 1, 1, 1) for number in (key, value, query))
    out = nn.functional.scaled_dot_product_attention(q, torch.cat([keys, own_key], 2), torch.cat([contents, own_value], 2))
    return float(out.detach())


def worked_example() -> WorkedExample:
    """A prefix of one position with key ln 3 and value 8, before a position with key 0 and value 4, asked with query 1."""
    inputs = {"values": [[math.log(3.0), 8.0]], "query": 1.0, "key": 0.0, "value": 4.0}
    how = "weights exp(ln 3) : exp(0) = 3 : 1, so (3 * 8 + 1 * 4) / 4 = 7; a prefix of zeros gives 4 / 2 = 2 and not 4"
    return WorkedExample(inputs, 7.0, how, wrong={**inputs, "values": [[8.0, math.log(3.0)]]})
