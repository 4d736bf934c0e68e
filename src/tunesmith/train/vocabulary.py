"""Training the rows of an embedding table that the data use, in place of the whole table.

A token that never occurs in the data has no gradient, so AdamW leaves its row alone but for weight decay, and yet a step
takes as long as the table is large: of minilm's 22 million weights 12 are a table of 30,522 rows, of which 1,600 sentences
use 6,686. Here these rows are a parameter of their own while a training lasts. Every loss and every trained row is the same
as with the whole table; rows of tokens that do not occur do not decay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from tunesmith.core.levers import on
from tunesmith.core.records import Encoded
from tunesmith.data.collate import VaryingRows
from tunesmith.models.encoder_operations import LookUp
from tunesmith.train.engines.local import current
from tunesmith.train.training import Training

# With more of the table in use than this, there is too little to save.
_WORTHWHILE = 0.7


class UsedRows(nn.Module):
    """An embedding table [V, D] of which the rows of `used` tokens [R] are trained, as a parameter [R, D]."""

    def __init__(self, table: nn.Embedding, used: torch.Tensor) -> None:
        super().__init__()
        self.table, self.used = table, used
        self.rows = nn.Parameter(table.weight.detach()[used])
        self.place = torch.full((table.num_embeddings,), -1, device=used.device).index_copy_(
            0, used, torch.arange(len(used), device=used.device)
        )
        unlearned = -1 if table.padding_idx is None else int(self.place[table.padding_idx])
        self._unlearned = None if unlearned < 0 else unlearned

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed ids [...] -> [..., D]; those that are not trained are read from the table."""
        places = self.place[ids].flatten()
        others = places < 0
        found = LookUp.apply(self.rows, places.clamp(min=0), self._unlearned)
        if bool(others.any()):
            found = torch.where(others[:, None], self.table.weight.detach()[ids.flatten()], found)
        return found.view(*ids.shape, -1)

    def give_back(self) -> None:
        """Write the trained rows into the table."""
        with torch.no_grad():
            self.table.weight.index_copy_(0, self.used, self.rows)


@contextmanager
def used_rows_only(model: nn.Module, training: Training) -> Iterator[Training]:
    """Inside the with-block, let a training that trains an embedding table train those of its rows that its data use.

    It is left as it is where the table is also the output layer (then every row has a gradient), where its rows are new every
    epoch, where its weights are divided among workers, and where nearly all of the table is in use.
    """
    name = _table_name(model, training)
    used = _used(training.data) if name else torch.empty(0)
    if not name or len(used) > _WORTHWHILE * model.get_submodule(name).weight.shape[0]:  # type: ignore[index]
        yield training
        return
    parent_name, _, last = name.rpartition(".")
    parent, table = model.get_submodule(parent_name), model.get_submodule(name)
    assert isinstance(table, nn.Embedding)
    rows = UsedRows(table, used.to(table.weight.device))
    setattr(parent, last, rows)
    table.weight.requires_grad_(False)
    try:
        yield replace(training, parameters={**training.parameters, f"{name}.weight": rows.rows})
    finally:
        rows.give_back()
        setattr(parent, last, table)
        table.weight.requires_grad_(True)


def _table_name(model: nn.Module, training: Training) -> str:
    """Return which embedding table of word pieces is trained and nothing but that; "" = none."""
    if not on("vocabulary") or isinstance(training.data, VaryingRows) or current().workers > 1:
        return ""
    table = model.get_input_embeddings()  # type: ignore[operator]
    output = model.get_output_embeddings()  # type: ignore[operator]
    if type(table) is not nn.Embedding or (output is not None and output.weight is table.weight):
        return ""
    name = next(n for n, module in model.named_modules() if module is table)
    return name if training.parameters.get(f"{name}.weight") is table.weight else ""


def _used(data: Sequence[Encoded]) -> torch.Tensor:
    return torch.tensor(sorted({0}.union(*(row.ids for row in data))))
