"""(IA)^3: keys, values and the inside of the feed-forward part are multiplied by trained vectors (Liu et al. 2022, section 3.3).

k' = l_k * k, v' = l_v * v and (l_ff * gamma(W1 x)) W2, all l = 1 at the start. Of a gated feed-forward part the product is
scaled, which is to scale its linear branch, as the authors do, and not the one in the activation.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tunesmith.core.config import Config, validate
from tunesmith.core.errors import UserError
from tunesmith.core.records import WorkedExample
from tunesmith.peft._layers import (
    PREFIX,
    attached,
    copy_in,
    is_end,
    listed_targets,
    match,
    place,
    plain_rates,
    require_roles,
    saved,
    short_names,
    switched_off,
    trainable,
    widths,
)

PEFT_TYPE = "IA3"
SAVES = "adapter"
TITLE = "(IA)3"
IDENTITY_AT_START = True
# T-Few's, for Adafactor and for AdamW alike.
LEARNING_RATE = 3e-3
rates = plain_rates


class Parameters(Config):
    """What (IA)^3 can be told."""

    targets: list[str] = []
    """layers whose output is scaled, by name or end of name; absent = keys and values (GPT-2 has them in c_attn, with queries)"""
    feedforward: list[str] = []
    """layers whose input is scaled instead; absent = the second layer of every feed-forward part, if targets are absent too"""


class ScaledLinear(nn.Module):
    """A linear layer [K -> D] with its output scaled by ia3_l [D, 1], or its input by ia3_l [1, K].

    The scale is float32 whatever the model's precision: near 1, bfloat16 moves in steps of 0.8 %.
    """

    def __init__(self, base: nn.Module, feedforward: bool) -> None:
        super().__init__()
        self.base, self.feedforward, self.enabled = base, feedforward, True
        k, d = widths(base)
        self.ia3_l = nn.Parameter(torch.ones((1, k) if feedforward else (d, 1), device=self.weight.device))

    @property
    def weight(self) -> torch.Tensor:
        """The linear layer's own, for models that look at its precision."""
        return self.base.weight  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [..., K] to [..., D]."""
        if not self.enabled:
            return self.base(x)
        scale = self.ia3_l.flatten()
        if self.feedforward:
            return self.base((x * scale).to(x.dtype))
        y = self.base(x)
        return (y * scale).to(y.dtype)

    def fold(self) -> None:
        """Multiply the scale into the base's weight and bias, in float32, rounded once."""
        base: Any = self.base
        scale = self.ia3_l if isinstance(base, nn.Linear) else self.ia3_l.T
        base.weight.copy_(base.weight.float() * scale)
        if base.bias is not None and not self.feedforward:
            base.bias.copy_(base.bias.float() * self.ia3_l.flatten())


def attach(model: Any, parameters: Parameters, seed: int) -> dict[str, nn.Parameter]:
    """Freeze the model and scale its keys, values and feed-forward parts.

    Returns:
        The trained parameters, by name.

    Raises:
        UserError: a name matches no layer, or this kind of model is not known and no names are given.
    """
    scaled = _targets(model, parameters)
    model.requires_grad_(False)
    for name, feedforward in scaled.items():
        place(model, name, ScaledLinear(model.get_submodule(name), feedforward).train(model.training))
    return trainable(model)


def _targets(model: Any, parameters: Parameters) -> dict[str, bool]:
    """Return the layers to scale, and whether it is their input."""
    if not parameters.targets and not parameters.feedforward:
        outputs, inputs = require_roles(model, "ia3", "key", "value"), require_roles(model, "ia3", "output")
    else:
        inputs = match(model, parameters.feedforward, "ia3 feedforward") if parameters.feedforward else []
        outputs = match(model, parameters.targets, "ia3") if parameters.targets else []
    return {**dict.fromkeys(outputs, False), **dict.fromkeys(inputs, True)}


def layers(model: nn.Module) -> dict[str, ScaledLinear]:
    """Return the attached layers by name."""
    return attached(model, ScaledLinear)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Scale nothing inside a with-block: the model is bitwise its base."""
    with switched_off(layers(model).values()):
        yield


def merge(model: nn.Module) -> None:
    """Multiply every scale into its weight (in float32, rounded once) and take it out."""
    with torch.no_grad():
        for name, layer in layers(model).items():
            layer.fold()
            place(model, name, layer.base)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{PREFIX}{name}.ia3_l": layer.ia3_l for name, layer in layers(model).items()}


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the scales under the names Hugging Face PEFT gives them."""
    return {name: saved(tensor) for name, tensor in _tensors(model).items()}


def load_state(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy saved scales into the attached layers.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; names it.
    """
    copy_in(_tensors(model), tensors)


def to_peft_config(model: nn.Module, parameters: Parameters) -> dict[str, Any]:
    """Return the method's part of PEFT's `adapter_config.json`."""
    scaled = layers(model)
    inputs = [name for name, layer in scaled.items() if layer.feedforward]
    short = short_names(model, list(scaled))
    # PEFT tells the two kinds apart by ends of names too.
    inner = sorted({n.rpartition(".")[2] for n in inputs}) if set(short) != set(scaled) else sorted(inputs)
    clash = any(is_end(name, end) for name in scaled if name not in inputs for end in inner)
    return {
        "target_modules": sorted(scaled) if clash else short,
        "feedforward_modules": sorted(inputs) if clash else inner,
        "fan_in_fan_out": any(not isinstance(layer.base, nn.Linear) for layer in scaled.values()),
    }


def from_peft_config(config: dict[str, Any]) -> Parameters:
    """Read the method's part of PEFT's `adapter_config.json`.

    Raises:
        UserError: modules that are trained whole, patterns in place of names, or a feed-forward layer that is no target.
    """
    targets, inputs = listed_targets(config), listed_targets(config, "feedforward_modules") or []
    for key, value in (("target_modules", targets), ("feedforward_modules", inputs)):
        if not isinstance(value, list):
            raise UserError(f"adapter_config.json: {key} is {value!r:.60}", "A list of layers' names is read here.")
    if strange := [name for name in inputs if name not in targets]:
        raise UserError(f"adapter_config.json: feedforward_modules has {strange[0]}, which is not among target_modules")
    names = {"targets": [name for name in targets if name not in inputs], "feedforward": inputs}
    return validate(Parameters, names, "adapter_config.json")


def evaluate(weight: Any, bias: Any, scale: Any, x: Any, feedforward: bool) -> list[float]:
    """Return what a real scaled layer makes of x, for the worked example."""
    base = nn.Linear(len(weight[0]), len(weight))
    base.weight.data, base.bias.data = torch.tensor(weight), torch.tensor(bias)
    layer = ScaledLinear(base, feedforward)
    layer.ia3_l.data = torch.tensor(scale).view_as(layer.ia3_l)
    return layer(torch.tensor(x)).tolist()


def worked_example() -> WorkedExample:
    """W = [1 2; 3 4], b = (1, 0), l = (2, 0.5), x = (1, 1), a layer of keys."""
    inputs = {"weight": [[1.0, 2.0], [3.0, 4.0]], "bias": [1.0, 0.0], "scale": [2.0, 0.5], "x": [1.0, 1.0], "feedforward": False}
    how = "W x + b = (4, 7), times l: (8, 3.5). Scaling the input instead gives W (2, 0.5) + b = (4, 8)"
    return WorkedExample(inputs, [8.0, 3.5], how, wrong={**inputs, "feedforward": True})
