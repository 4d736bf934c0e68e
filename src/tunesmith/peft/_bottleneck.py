"""Bottlenecks, what Houlsby and Pfeiffer adapters are made of: f(h) = W_up act(W_down h + b_down) + b_up, added to h."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from tunesmith.core.errors import UserError
from tunesmith.models.trunk import BEHIND
from tunesmith.peft._layers import PREFIX, attached, copy_in, place, saved

# Near the identity, as in the code that was published with Houlsby et al.: normal, cut off at two deviations.
_DEVIATION = 1e-3

Activation = Callable[[torch.Tensor], torch.Tensor]


class Bottleneck(nn.Module):
    """f: [..., D] -> [..., D] through m numbers."""

    def __init__(self, width: int, size: int, activation: Activation, like: torch.Tensor, generator: torch.Generator) -> None:
        super().__init__()
        self.activation, self.enabled = activation, True
        with torch.device("meta"):
            self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        self.to_empty(device=like.device).to(like.dtype)
        with torch.no_grad():
            for layer in (self.down, self.up):
                drawn = torch.empty(layer.weight.shape)
                nn.init.trunc_normal_(drawn, std=_DEVIATION, a=-2 * _DEVIATION, b=2 * _DEVIATION, generator=generator)
                layer.weight.copy_(drawn)
                layer.bias.zero_()

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Return f(h)."""
        return self.up(self.activation(self.down(h)))


class AfterLinear(nn.Module):
    """A linear layer and a bottleneck behind it: y + f(y) with y = W x + b."""

    def __init__(self, base: nn.Module, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.base, self.bottleneck = base, bottleneck

    @property
    def weight(self) -> torch.Tensor:
        """The linear layer's own, for models that look at its precision."""
        return self.base.weight  # type: ignore[return-value]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [..., K] to [..., D]."""
        y = self.base(x)
        return y + self.bottleneck(y) if self.bottleneck.enabled else y


class AroundNorm(nn.Module):
    """The norm N after the sum of a sublayer and its input: N(s + f(N(s))) in place of N(s)."""

    def __init__(self, base: nn.Module, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.base, self.bottleneck = base, bottleneck

    def forward(self, s: torch.Tensor) -> torch.Tensor:
        """Map s [..., D] to [..., D]."""
        return self.base(s + self.bottleneck(self.base(s))) if self.bottleneck.enabled else self.base(s)


class BehindBlock(nn.Module):
    """What stands behind a whole block: h + f(h)."""

    def __init__(self, bottleneck: Bottleneck) -> None:
        super().__init__()
        self.bottleneck = bottleneck

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Map h [..., D] to [..., D]."""
        return h + self.bottleneck(h) if self.bottleneck.enabled else h


def put_behind(block: Any, bottleneck: Bottleneck) -> None:
    """Put a bottleneck behind a block: transformers' code calls it by a hook, our own forward passes by name."""
    setattr(block, BEHIND, BehindBlock(bottleneck))
    block.register_forward_hook(_call_behind)


def _call_behind(block: Any, inputs: Any, output: Any) -> Any:
    behind = getattr(block, BEHIND)
    return (behind(output[0]), *output[1:]) if isinstance(output, tuple) else behind(output)


def put_after(model: nn.Module, name: str, bottleneck: Bottleneck) -> None:
    """Put a bottleneck behind the linear layer of this name."""
    place(model, name, AfterLinear(model.get_submodule(name), bottleneck))


def bottlenecks(model: nn.Module) -> dict[str, Bottleneck]:
    """Return a model's bottlenecks by name."""
    return attached(model, Bottleneck)


def refuse_merge(method: str) -> None:
    """Refuse: what lies between two matrices is no matrix.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"{method} adapters cannot be merged into the weights: their activation stands between two products",
        "Use them as --adapter; they stay a small file beside their base.",
    )


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {f"{PREFIX}{name}.{key}": p for name, b in bottlenecks(model).items() for key, p in b.named_parameters()}


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the tensors of all bottlenecks under the names they have in the model."""
    return {name: saved(tensor) for name, tensor in _tensors(model).items()}


def load_state(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Copy saved tensors into the bottlenecks.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape; names it.
    """
    copy_in(_tensors(model), tensors)


def fill(bottleneck: Any, down: Any, up: Any) -> None:
    """Give a bottleneck these two matrices, and biases of zero, for a worked example."""
    bottleneck.down.weight.data, bottleneck.up.weight.data = torch.tensor(down), torch.tensor(up)
