"""Products in bfloat16 whose weights are laid out once for the processor's matrix units."""

from __future__ import annotations

import torch

from tunesmith.core.levers import on


def can_pack(weight: torch.Tensor) -> bool:
    """Whether a weight is in bfloat16 on a processor with units for it."""
    return (
        on("packed")
        and weight.dtype == torch.bfloat16
        and weight.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


class Packed:
    """x W^T + b, with W laid out for the processor: the same bits as the plain product, whatever else is in the batch."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
        self.bias = None if bias is None else bias.detach()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply x [N, K] -> [N, M]."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
