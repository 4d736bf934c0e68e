"""Where the real tokens of a padded batch stand, so that work token by token is done for them only."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tunesmith.core.levers import on
from tunesmith.models.operations import SpreadRows, TakeRows

_WORTHWHILE_PADDING = 0.05


@dataclass(frozen=True)
class Layout:
    """Where the N real tokens of a padded batch [B, T] stand; index None = everywhere, because nothing is padded."""

    batch: int
    length: int
    index: torch.Tensor | None

    @classmethod
    def of(cls, lengths: torch.Tensor, length: int) -> Layout:
        """Return the layout of rows [B] padded on the right to `length`; a little padding counts as real tokens."""
        padding = 1 - float(lengths.sum()) / (len(lengths) * length)
        if padding < _WORTHWHILE_PADDING or not on("padding"):
            return cls(len(lengths), length, None)
        return cls.exactly(lengths, length)

    @classmethod
    def exactly(cls, lengths: torch.Tensor, length: int) -> Layout:
        """Return the layout that leaves out all padding."""
        return cls.at(torch.arange(length, device=lengths.device) < lengths[:, None])

    @classmethod
    def at(cls, real: torch.Tensor) -> Layout:
        """Return the layout of tokens that stand where real [B, T] is True."""
        batch, length = real.shape
        return cls(batch, length, real.flatten().nonzero()[:, 0])

    def real(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T] -> [N]."""
        return x.flatten() if self.index is None else x.flatten()[self.index]

    def padded(self, x: torch.Tensor) -> torch.Tensor:
        """[N, D] -> [B, T, D], zeros between rows, so that no row of a batch can see another."""
        if self.index is not None:
            x = SpreadRows.apply(x, self.index, self.batch * self.length)
        return x.view(self.batch, self.length, -1)

    def packed(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] -> [N, D]."""
        x = x.reshape(self.batch * self.length, -1)
        return x if self.index is None else TakeRows.apply(x, self.index)
