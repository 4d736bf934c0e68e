"""Several workers as one: rows and weights are divided (FSDP over torch.distributed), sums and decisions are common.

Every worker makes the same passes over a step's rows, each with its share of them; gradients are summed, not averaged, since
the loss is divided by the number of counted tokens in the whole step already. So N workers make the update that one makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from tunesmith.core.records import Encoded
from tunesmith.data.collate import Batch, micro_batches
from tunesmith.train.engines.local import Engine, LossOf, Trained


class Group(Engine):
    """The workers of an initialised process group.

    Args:
        frozen_too: divide weights that are not trained, too: less memory, and far more bytes to move.
    """

    def __init__(self, frozen_too: bool) -> None:
        self.rank, self.workers, self._frozen_too = dist.get_rank(), dist.get_world_size(), frozen_too
        self.signal = 0
        self._root: Any = None

    def divide(self, model: nn.Module, trained: Trained, loss_of: LossOf) -> tuple[Trained, LossOf]:
        """Shard a model in place, layer by layer (Zhao et al. 2023, PyTorch FSDP; `fully_shard` is its second version)."""
        names = list(trained)
        root = _Pass(model, loss_of)
        frozen = set() if self._frozen_too else {p for p in model.parameters() if not p.requires_grad}
        mesh = init_device_mesh(next(model.parameters()).device.type, (self.workers,))
        layers = max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len, default=())
        # The rest (embedding, norm, a head that may be tied) is one group around the whole pass, whatever it calls.
        for module in (*layers, root):
            divided: Any = fully_shard(
                module, mesh=mesh, reshard_after_forward=True, ignored_params=frozen,
                mp_policy=MixedPrecisionPolicy(reduce_dtype=torch.float32),
            )  # fmt: skip
            divided.set_gradient_divide_factor(1.0)
            divided.set_force_sum_reduction_for_comms(True)  # gloo knows no scaled sum
        self._root = root
        parameters = dict(model.named_parameters())
        return {name: parameters[name] for name in names}, root

    def passes(self, examples: Sequence[Encoded], token_budget: int) -> list[list[Batch | None]]:
        """Give every worker about the same number of tokens."""
        shares: list[list[Encoded]] = [[] for _ in range(self.workers)]
        for example in sorted(examples, key=len, reverse=True):
            min(shares, key=lambda share: sum(map(len, share))).append(example)
        return [list(row) for row in zip_longest(*(micro_batches(share, token_budget) for share in shares))]

    def gather(self, value: float) -> list[float]:
        """Return every worker's value, by rank."""
        values = [torch.zeros(1, dtype=torch.float64) for _ in range(self.workers)]
        dist.all_gather(values, torch.tensor([value], dtype=torch.float64))
        return [float(v) for v in values]

    def asked_to_stop(self, signal: int) -> int:
        """Return the signal that any worker has caught or was told of (`signal` is set from outside), 0 without one."""
        return int(max(self.gather(signal or self.signal)))

    def measure(self, evaluate: Callable[[], float]) -> float:
        """Evaluate on every worker alike, since all are needed for every forward pass; the first one's value counts."""
        self._root.unshard()  # an evaluation enters the model by other doors than a training pass
        value = evaluate()
        self._root.reshard()
        return self.gather(value)[0]

    def number(self, tensor: torch.Tensor) -> float:
        """Read a scalar that was computed from divided tensors."""
        return float(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor)

    def mine(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the part of a divided tensor that is here; it may be empty."""
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Take this worker's part of a tensor that every worker has read."""
        if not isinstance(like, DTensor):
            return whole
        return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)

    def whole(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Put divided tensors together one by one, in the first worker's main memory."""
        put_together = {}
        for name, tensor in tensors.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            if self.rank == 0:
                put_together[name] = full.cpu()
        return put_together

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Let the first worker run a with-block to its end before the others enter it."""
        if self.rank:
            self.gather(0)
        yield
        if not self.rank:
            self.gather(0)


class _Pass(nn.Module):
    """A forward pass up to the loss as one module, so that FSDP sees where it begins and ends."""

    def __init__(self, model: nn.Module, loss_of: LossOf) -> None:
        super().__init__()
        self.model, self.loss_of = model, loss_of

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Return the summed loss and what was counted on the way."""
        return self.loss_of(batch)
