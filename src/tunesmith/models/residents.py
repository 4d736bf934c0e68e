"""Several LoRA adapters on one loaded base: one of them switched on, or each row of a batch with its own.

    h = W x + (alpha / r) B_g A_g x        for the rows of a pass that belong to adapter g (Hu et al. 2021, equation 3)

The product with W is made once for all rows. The thin ones are made adapter by adapter where each has many rows. Where each
has few, as when every row of a batch is decoded by another adapter, all A stand below each other and all B side by side, and
what a row gets from the adapters of others is set to zero between the two products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from tunesmith.core.errors import UserError, near_miss
from tunesmith.models.packed import Packed, can_pack
from tunesmith.models.updated import UpdatedLinear

# The name of the base among the adapters.
BASE = "base"

# From so many rows an adapter on, adapter by adapter is faster than all at once.
_MANY = 16

# Of one layer: A [R, K], B [D, R] and alpha / r.
Factors = tuple[torch.Tensor, torch.Tensor, float]


class _Adapter:
    """An adapter's numbers in one piece of memory, and layer -> its factors as views of it."""

    def __init__(self, factors: Mapping[str, Factors], dtype: torch.dtype, device: torch.device) -> None:
        pieces = [x.detach().to(device, dtype).flatten() for a, b, _ in factors.values() for x in (a, b)]
        self.numbers = torch.cat(pieces)
        views = iter(self.numbers.split([len(piece) for piece in pieces]))
        self.factors = {
            layer: (next(views).view(a.shape), next(views).view(b.shape), scaling) for layer, (a, b, scaling) in factors.items()
        }


@dataclass(frozen=True)
class _Rows:
    """One adapter's part of a pass: the numbers of its rows, None = all."""

    factors: dict[str, Factors]
    rows: torch.Tensor | None = None

    def add_(self, layer: str, out: torch.Tensor, x: torch.Tensor) -> None:
        if layer not in self.factors:
            return
        a, b, scaling = self.factors[layer]
        if self.rows is None:
            out.add_(linear(linear(x, a), b), alpha=scaling)
        else:
            out.index_add_(0, self.rows, linear(linear(x.index_select(0, self.rows), a), b), alpha=scaling)


_Product = Callable[[torch.Tensor], torch.Tensor]
_Blocks = tuple[tuple[int, int, float], ...]
_Stacked = tuple[_Product, _Product, _Blocks]


class _Stack:
    """Several adapters side by side: of each layer all A [R, K] and all B [D, R], R the sum of their ranks there."""

    def __init__(self, adapters: Mapping[str, _Adapter]) -> None:
        self.numbers = {name: number for number, name in enumerate(adapters)}
        self._adapters = list(adapters.values())
        self._layers: dict[str, _Stacked | None] = {}

    def of(self, layer: str) -> _Stacked | None:
        """Return the products with A and B, and of each adapter that has the layer (its number, its rank, alpha / r)."""
        if layer not in self._layers:
            found = [(n, *adapter.factors[layer]) for n, adapter in enumerate(self._adapters) if layer in adapter.factors]
            self._layers[layer] = (
                (
                    _product(torch.cat([a for _, a, _, _ in found])),
                    _product(torch.cat([b for _, _, b, _ in found], 1)),
                    tuple((n, len(a), scaling) for n, a, _, scaling in found),
                )
                if found
                else None
            )
        return self._layers[layer]


def _product(weight: torch.Tensor) -> _Product:
    if can_pack(weight):
        return Packed(weight, None)
    return lambda x: linear(x, weight)


class _Mixed:
    """The part of all rows of a pass, each with its own adapter of a stack.

    Args:
        which: for each row the number of its adapter in the stack; -1 = the base.
    """

    def __init__(self, stack: _Stack, which: torch.Tensor) -> None:
        self._stack, self._which = stack, which
        self._masks: dict[_Blocks, torch.Tensor] = {}

    def add_(self, layer: str, out: torch.Tensor, x: torch.Tensor) -> None:
        if (stacked := self._stack.of(layer)) is None:
            return
        a, b, blocks = stacked
        if blocks not in self._masks:
            columns = torch.tensor([n for n, rank, _ in blocks for _ in range(rank)], device=x.device)
            scales = torch.tensor([scaling for _, rank, scaling in blocks for _ in range(rank)], dtype=x.dtype, device=x.device)
            self._masks[blocks] = (self._which[:, None] == columns) * scales
        mask = self._masks[blocks]
        out.add_(b(a(x).mul_(mask if x.dim() == 2 else mask[:, None])))


class ResidentLinear(UpdatedLinear):
    """A frozen linear layer and the updates that the resident adapters make to it."""

    residents: Residents

    def __init__(self, base: nn.Module, name: str, residents: Residents) -> None:
        super().__init__()
        self.base, self.name = base, name
        # Not as a part of this module: it belongs to the model.
        object.__setattr__(self, "residents", residents)

    @property
    def apart(self) -> bool:
        """Always."""
        return True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [rows, ..., K] to [rows, ..., D]."""
        return self.add_updates_(self.base(x), x)

    def add_updates_(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add the updates for x [rows, ..., K] to out [rows, ..., D] in place, and return it."""
        for part in self.residents.parts:
            part.add_(self.name, out, x)
        return out


class Residents:
    """The adapters of one model, on it as its `residents`.

    Attributes:
        active: the adapter that is switched on; None = the base.
        parts: what is added to the layers' own products in the pass that runs.
        mounted: how often layers of the model were put in place of others.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._adapters: dict[str, _Adapter] = {}
        self._layers: dict[str, nn.Module] = {}
        self.active: str | None = None
        self.parts: list[_Rows | _Mixed] = []
        self._stack = _Stack({})
        self.mounted = 0

    @property
    def names(self) -> list[str]:
        """Names of the adapters, in the order they came."""
        return list(self._adapters)

    @property
    def layers(self) -> list[str]:
        """Names of the model's layers that some adapter changes."""
        return list(self._layers)

    @property
    def parameters(self) -> int:
        """Numbers that all adapters hold together."""
        return sum(adapter.numbers.numel() for adapter in self._adapters.values())

    def put(self, name: str, factors: Mapping[str, Factors]) -> None:
        """Keep an adapter under a name; it is switched on when somebody asks for it.

        Args:
            factors: layer of the model -> A, B and alpha / r.

        Raises:
            UserError: the name is taken, empty, or the base's.
        """
        if not name or name == BASE or name in self._adapters:
            raise UserError(
                f"an adapter cannot be called '{name}': " + ("that is taken" if name else "it needs a name"),
                f"Choose another name; '{BASE}' is the model without any.",
            )
        weight = next(self._model.parameters())
        self._adapters[name] = _Adapter(factors, weight.dtype, weight.device)
        self.mount([layer for layer in factors if layer not in self._layers])

    def remove(self, name: str) -> None:
        """Give an adapter's memory back; if it is switched on, the base is from now on.

        Raises:
            UserError: there is none of this name.
        """
        self._factors(name)
        if self.active == name:
            self.switch(None)
        self.release()
        del self._adapters[name]

    def switch(self, name: str | None) -> None:
        """Switch to an adapter; None or "base" = to the model without any. No weight is touched.

        Raises:
            UserError: there is none of this name.
        """
        name = None if name == BASE else name
        self.parts = [_Rows(self._factors(name))] if name else []
        self.active = name

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        """Switch to an adapter inside a with-block.

        Raises:
            UserError: there is none of this name.
        """
        before = self.active
        self.switch(name)
        try:
            yield
        finally:
            self.switch(before)

    def check(self, names: Sequence[str | None]) -> None:
        """Check that rows can be given to adapters of these names; None = the active one.

        Raises:
            UserError: there is none of a name.
        """
        for name in dict.fromkeys(names):
            if name not in (None, BASE):
                self._factors(name)

    @contextmanager
    def of_rows(self, runs: Sequence[tuple[str | None, int]]) -> Iterator[None]:
        """Let each row of the passes inside a with-block be computed by its own adapter.

        Args:
            runs: adapter (None = the active one) and how many rows that stand one after the other are its own.
        """
        names = [name or self.active or BASE for name, count in runs for _ in range(count)]
        before = self.parts
        self.parts = self._parts(names)
        try:
            yield
        finally:
            self.parts = before

    def _parts(self, names: Sequence[str]) -> list[_Rows | _Mixed]:
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(name, []).append(row)
        own = {name: of for name, of in rows.items() if name != BASE}
        if len(rows) == 1:
            return [_Rows(self._factors(name)) for name in own]
        device = self._model.device
        if len(names) >= _MANY * len(own):
            return [_Rows(self._factors(name), torch.tensor(of, device=device)) for name, of in own.items()]
        # Answers end one after the other; what was put side by side for more adapters does for fewer.
        if not own.keys() <= self._stack.numbers.keys():
            self.release()
            self._stack = _Stack({name: self._adapters[name] for name in own if self._factors(name)})
        return [_Mixed(self._stack, torch.tensor([self._stack.numbers.get(name, -1) for name in names], device=device))]

    def release(self) -> None:
        """Give back the copies that a mixed batch of few rows an adapter works with."""
        self._stack = _Stack({})

    def _factors(self, name: str) -> dict[str, Factors]:
        if name not in self._adapters:
            fix = near_miss(name, self._adapters) or "Load one: ts.load(model, adapters={name: folder})."
            raise UserError(f"there is no adapter '{name}' on this model", fix)
        return self._adapters[name].factors

    def mount(self, layers: Sequence[str]) -> None:
        """Put layers that take updates in the place of the model's own."""
        for layer in layers:
            base = self._layers.setdefault(layer, self._model.get_submodule(layer))
            self._set(layer, ResidentLinear(base, layer, self))
        self.mounted += bool(layers)

    def unmount(self) -> list[str]:
        """Put the model's own layers back, and return the names of those that `mount` is to put in place again."""
        for layer, base in self._layers.items():
            self._set(layer, base)
        self.mounted += 1
        return list(self._layers)

    def _set(self, layer: str, module: nn.Module) -> None:
        parent, _, last = layer.rpartition(".")
        setattr(self._model.get_submodule(parent), last, module)


def residents_of(model: Any) -> Residents | None:
    """Return the adapters that live on a model, None if it never had several."""
    return getattr(model, "residents", None)


def check_residents(model: Any, names: Sequence[str | None]) -> None:
    """Check that a model has adapters of these names; None asks for nothing.

    Raises:
        UserError: it has not.
    """
    residents = residents_of(model)
    if residents is not None:
        residents.check(names)
    elif wanted := [name for name in names if name is not None]:
        raise UserError(
            f"there is no adapter '{wanted[0]}' on this model", "Load it by name: ts.load(model, adapters={name: folder})."
        )


@contextmanager
def of_rows(model: Any, runs: Sequence[tuple[str | None, int]]) -> Iterator[None]:
    """Let each row of a pass be computed by its own adapter; see `Residents.of_rows`. Without adapters, nothing happens."""
    residents = residents_of(model)
    if residents is None or all(name is None for name, _ in runs):
        yield
    else:
        with residents.of_rows(runs):
            yield
