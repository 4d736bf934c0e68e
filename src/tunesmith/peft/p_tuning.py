"""P-tuning: virtual tokens that an LSTM or MLP makes in training, so that they depend on each other (Liu et al. 2021).

Only the embeddings that come out are kept (section 3.2), so a trained prompt is used exactly as in prompt tuning.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn

from tunesmith.core.config import Config, validate
from tunesmith.core.records import WorkedExample
from tunesmith.models.soft_prefix import SoftPrefix
from tunesmith.peft import _prefix
from tunesmith.peft._layers import plain_rates

PEFT_TYPE = "P_TUNING"
SAVES = "adapter"
TITLE = "P-tuning {tokens}"
IDENTITY_AT_START = False
disabled, merge, state, load_state = _prefix.disabled, _prefix.merge, _prefix.state, _prefix.load_state
rates = plain_rates
LEARNING_RATE = 1e-3


class Parameters(Config):
    """What P-tuning can be told."""

    tokens: int = Field(20, ge=1, le=150)
    """p, virtual tokens"""
    encoder: Literal["lstm", "mlp", "none"] = "lstm"
    """what makes them in training; none = train the embeddings themselves, as when an adapter is trained on"""
    hidden: int | None = Field(None, ge=2)
    """width of the encoder; absent = that of the model"""


class PromptEncoder(nn.Module):
    """[p, D] out of p trained inputs [p, D]: a bidirectional LSTM of two layers and a head, or a head of three layers."""

    def __init__(self, tokens: int, width: int, hidden: int, lstm: bool) -> None:
        super().__init__()
        self.inputs = nn.Parameter(torch.randn(tokens, width))
        self.lstm = nn.LSTM(width, hidden // 2, num_layers=2, bidirectional=True, batch_first=True) if lstm else None
        first = [nn.Linear(hidden // 2 * 2, hidden)] if lstm else [nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden)]
        self.head = nn.Sequential(*first, nn.ReLU(), nn.Linear(hidden, width))

    def forward(self) -> torch.Tensor:
        """Return the virtual tokens."""
        x = self.inputs if self.lstm is None else self.lstm(self.inputs[None])[0][0]
        return self.head(x)


def attach(model: Any, parameters: Parameters, seed: int) -> dict[str, nn.Parameter]:
    """Freeze the model and put p virtual tokens in front of whatever it reads.

    Returns:
        The trained parameters, by name; those of the encoder are among them.
    """
    width = model.get_input_embeddings().weight.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if parameters.encoder == "none":
            encoder: nn.Module = _prefix.Values(torch.randn(parameters.tokens, width))
        else:
            encoder = PromptEncoder(parameters.tokens, width, parameters.hidden or width, parameters.encoder == "lstm")
    return _prefix.attach_prefix(model, SoftPrefix(encoder, parameters.tokens))


def to_peft_config(model: Any, parameters: Parameters) -> dict[str, Any]:
    """Return the method's part of PEFT's `adapter_config.json`."""
    width = model.get_input_embeddings().weight.shape[1]
    return {
        **_prefix.sizes_for_peft(model, width, model.config.num_attention_heads),
        # PEFT knows these two encoders only. It builds one to train on, and none to read what is saved here.
        "encoder_reparameterization_type": "LSTM" if parameters.encoder == "lstm" else "MLP",
        "encoder_hidden_size": parameters.hidden or width,
    }


def from_peft_config(config: dict[str, Any]) -> Parameters:
    """Read the method's part of PEFT's `adapter_config.json`; the encoder is not in the files, so there is none any more.

    Raises:
        UserError: a number of tokens that is not read, or a prompt for an encoder too.
    """
    _prefix.check_decoder_only(config)
    return validate(Parameters, {"tokens": config.get("num_virtual_tokens"), "encoder": "none"}, "adapter_config.json")


def evaluate(inputs: Sequence[Sequence[float]], first: Sequence[Sequence[float]], last: Sequence[Sequence[float]]) -> list[float]:
    """Return the one virtual token of an MLP whose middle layer is the identity, without biases, for the worked example."""
    encoder = PromptEncoder(len(inputs), len(inputs[0]), len(first), lstm=False)
    weights = [torch.tensor(inputs), torch.tensor(first), torch.eye(len(first)), torch.tensor(last)]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
        for parameter, weight in zip([p for p in encoder.parameters() if p.ndim == 2], weights, strict=True):
            parameter.copy_(weight)
        return encoder()[0].tolist()


def worked_example() -> WorkedExample:
    """Input (1, -1), first layer [[1, 1], [2, 1]], the identity, last layer [[3, 5], [7, 11]]."""
    inputs = {"inputs": [[1.0, -1.0]], "first": [[1.0, 1.0], [2.0, 1.0]], "last": [[3.0, 5.0], [7.0, 11.0]]}
    how = "first layer (1 - 1, 2 - 1) = (0, 1), which ReLU leaves; last layer (3 * 0 + 5 * 1, 7 * 0 + 11 * 1) = (5, 11)"
    return WorkedExample(inputs, [5.0, 11.0], how, wrong={**inputs, "inputs": [[-1.0, 1.0]]})
