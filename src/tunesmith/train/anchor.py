"""What holds weights near where a training began: L2-SP (Li et al. 2018) and EWC (Kirkpatrick et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from tunesmith.train.engines.local import current


@dataclass(frozen=True)
class Anchor:
    """How trained weights are held near their start w0, the weights that `fit` is given.

    Attributes:
        l2_sp: strength a of w <- w - learning rate * a (w - w0). These weights do not decay to zero as well.
        ewc: strength lambda of the gradient lambda F (w - w0), added before clipping.
        fisher: parameter name -> F, float32; None = not measured yet, which a rehearsal can do without.
        new: names of parameters that nothing pre-trained stands behind, such as a head; they are left alone.
    """

    l2_sp: float = 0.0
    ewc: float = 0.0
    fisher: Mapping[str, torch.Tensor] | None = None
    new: frozenset[str] = field(default_factory=frozenset)

    def bytes_for(self, parameter: torch.Tensor) -> int:
        """Return what holding a parameter takes: a copy of its start, and for EWC its F."""
        return parameter.nbytes + (4 * parameter.numel() if self.ewc else 0)

    def on_rows(self, name: str, rows: torch.Tensor) -> Anchor:
        """Return the same for a training that trains some rows of the parameter `name` in its place."""
        if self.fisher is None or name not in self.fisher:
            return self
        known = self.fisher[name]
        return replace(self, fisher={**self.fisher, name: known[rows.to(known.device)]})


class Held:
    """Parameters on an anchor, at work in one training.

    Args:
        parameters: by name, at their start. masters: their float32 copies, which are moved.
    """

    def __init__(self, anchor: Anchor, parameters: Mapping[str, torch.Tensor], masters: Mapping[str, torch.Tensor]) -> None:
        self.anchor = anchor
        self.masters = {name: master for name, master in masters.items() if name not in anchor.new}
        # In the parameters' own precision, which is exact: the masters begin as copies of them.
        self.start = {name: parameters[name].detach().clone() for name in self.masters}
        self.fisher = {name: self._fisher(name, master) for name, master in self.masters.items()} if anchor.ewc else {}

    def _fisher(self, name: str, master: torch.Tensor) -> torch.Tensor:
        # A rehearsal takes as long, and as much memory, whatever F is.
        known = self.anchor.fisher
        return torch.ones_like(master) if known is None else current().part(known[name], master).to(master.device)

    @torch.no_grad()
    def add_gradients(self) -> None:
        """Add the gradient of EWC's penalty to those of the loss."""
        for name, fisher in self.fisher.items():
            master = self.masters[name]
            pull = (master - self.start[name]).mul_(fisher).mul_(self.anchor.ewc)
            master.grad = pull if master.grad is None else master.grad.add_(pull)

    @torch.no_grad()
    def pull(self, name: str, learning_rate: float) -> None:
        """Move a weight back towards its start, decoupled from the gradient."""
        if self.anchor.l2_sp and name in self.masters:
            master = self.masters[name]
            # Never past the start, however strong the pull.
            master.lerp_(self.start[name].to(master.dtype), min(learning_rate * self.anchor.l2_sp, 1.0))
