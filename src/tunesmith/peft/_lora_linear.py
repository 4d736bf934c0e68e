"""A linear layer with a low-rank update, and its variants: where the update starts, how it is scaled, and its magnitude."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from tunesmith.models.updated import UpdatedLinear
from tunesmith.peft._layers import widths


class LoraLinear(UpdatedLinear):
    """A linear layer [K -> D] and its low-rank update: lora_A [R, K], lora_B [D, R].

    Plain: W x + s B A x. PiSSA: W x + s (B A - B0 A0) x, where B0 A0 are the start and stay as they are. DoRA:
    m / ||W + s B A|| (W + s B A) x, with the norm [D] over the inputs of each output, without gradient, and lora_m [D] trained.

    Args:
        base: nn.Linear, or GPT-2's Conv1D. parameters: those of `peft.lora`. generator: draws A.
    """

    def __init__(self, base: nn.Module, parameters: Any, generator: torch.Generator) -> None:
        super().__init__()
        self.base, self.scaling, self.enabled = base, parameters.scaling, True
        # GPT-2's Conv1D keeps its weight as [K, D]; nn.Linear as [D, K].
        self.transposed = not isinstance(base, nn.Linear)
        self.dropout = nn.Dropout(parameters.dropout) if parameters.dropout else nn.Identity()
        if parameters.init == "pissa":
            a, b = self._principal(parameters.rank)
            self.register_buffer("start_A", a, persistent=False)
            self.register_buffer("start_B", b, persistent=False)
            a, b = a.clone(), b.clone()
        else:
            a, b = self._drawn(parameters.rank, generator)
        self.lora_A, self.lora_B = nn.Parameter(a), nn.Parameter(b)
        self.lora_m = nn.Parameter(self._norm()) if parameters.dora else None
        self._known: tuple[Any, torch.Tensor] | None = None
        self.train(base.training)

    @property
    def weight(self) -> torch.Tensor:
        """The base's, for models that look at its precision."""
        return self.base.weight  # type: ignore[return-value]

    def _drawn(self, rank: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """A as in the authors' and PEFT's code (Kaiming uniform, a = sqrt 5), B of zeros; in the model's precision."""
        k, d = widths(self.base)
        bound = math.sqrt(6.0 / ((1 + 5) * k))
        a = (torch.rand(rank, k, generator=generator) * 2 - 1) * bound
        return a.to(self.weight), torch.zeros(d, rank, device=self.weight.device, dtype=self.weight.dtype)

    def _principal(self, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The R largest singular values of W = U S V^T, half on each side (Meng et al. 2024, equations 2 and 3), float32.

        In bfloat16 the small difference of B A to its start would be lost.
        """
        u, s, v = torch.linalg.svd(self._matrix(), full_matrices=False)
        root = (s[:rank] / self.scaling).sqrt()
        return root[:, None] * v[:rank], u[:, :rank] * root

    def _matrix(self) -> torch.Tensor:
        """W as float32 [D, K], without gradient."""
        weight = self.weight.detach().float()
        return weight.T if self.transposed else weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [..., K] to [..., D]."""
        y = self.base(x)
        if not self.enabled:
            return y
        inner = self.dropout(x).to(self.lora_A.dtype)
        change = nn.functional.linear(nn.functional.linear(inner, self.lora_A), self.lora_B)
        if "start_A" in self._buffers:
            # Of equal factors the same products come out, bit for bit, so it starts as its base.
            change = change - nn.functional.linear(nn.functional.linear(inner, self.start_A), self.start_B)  # type: ignore[arg-type]
        if self.lora_m is None:
            return torch.add(y, change.to(y.dtype), alpha=self.scaling)
        ratio = self._ratio()
        bias: torch.Tensor | None = self.base.bias  # type: ignore[assignment]
        product = y if bias is None else y - bias
        return y + (ratio - 1).to(y.dtype) * product + (self.scaling * ratio).to(y.dtype) * change

    @property
    def apart(self) -> bool:
        """Whether this is the plain update, without dropout, in the precision of the base."""
        plain = self.lora_m is None and "start_A" not in self._buffers and isinstance(self.dropout, nn.Identity)
        return plain and self.lora_A.dtype == self.weight.dtype

    def add_updates_(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add s B A x to out, unless the update is switched off."""
        if self.enabled:
            out.add_(nn.functional.linear(nn.functional.linear(x, self.lora_A), self.lora_B), alpha=self.scaling)
        return out

    def factors_now(self) -> tuple[torch.Tensor, torch.Tensor, float] | None:
        """Return A, B and s, unless the update is switched off."""
        return (self.lora_A.detach(), self.lora_B.detach(), self.scaling) if self.enabled and self.apart else None

    def _ratio(self) -> torch.Tensor:
        """m / ||W + s B A|| [D], float32."""
        assert self.lora_m is not None
        if self.training or torch.is_grad_enabled():
            # A fused optimizer changes tensors without counting it in their versions.
            self._known = None
            return self.lora_m / self._norm()
        key = [(p.data_ptr(), p._version) for p in (self.lora_A, self.lora_B, self.weight)]
        if self._known is None or self._known[0] != key:
            self._known = key, self._norm()
        return self.lora_m / self._known[1]

    def _norm(self) -> torch.Tensor:
        """||W + s B A|| [D], float32; a constant to the gradient (Liu et al. 2024, section 4.3)."""
        with torch.no_grad():
            return torch.linalg.vector_norm(self._matrix() + self._product(), dim=1)

    def _product(self) -> torch.Tensor:
        return self.scaling * (self.lora_B.float() @ self.lora_A.float())

    def update(self) -> torch.Tensor:
        """Return what the layer adds to its base weight, as float32, in the layout of that weight."""
        delta = self._product()
        if "start_A" in self._buffers:
            delta = delta - self.scaling * (self.start_B @ self.start_A)  # type: ignore[operator]
        if self.lora_m is not None:
            delta = self._ratio()[:, None] * (self._matrix() + delta) - self._matrix()
        return delta.T if self.transposed else delta

    def factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the A and B that a plain LoRA on the same base has; PiSSA's have twice the rank.

        B A - B0 A0 is factored anew, Q_B (R_B R_A^T) Q_A^T with a singular value's root on each side: the four factors
        themselves would lose it in reduced precision.
        """
        if "start_A" not in self._buffers:
            return self.lora_A, self.lora_B
        left = torch.cat([self.lora_B, -self.start_B], 1).double()  # type: ignore[operator, list-item]
        right = torch.cat([self.lora_A, self.start_A]).double()  # type: ignore[list-item]
        (q_left, r_left), (q_right, r_right) = torch.linalg.qr(left), torch.linalg.qr(right.T)
        u, s, v = torch.linalg.svd(r_left @ r_right.T)
        root = s.sqrt()
        return (root[:, None] * (v @ q_right.T)).float(), (q_left @ (u * root)).float()
