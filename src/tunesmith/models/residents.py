"""Several LoRA adapters on one loaded base: one of them switched on, or each row of a batch with its own.

    h = W x + (alpha / r) B_g A_g x        for the rows of a pass that belong to adapter g (Hu et al. 2021, equation 3)

The product with W is made once for all rows; only the thin ones are made adapter by adapter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import nn

from tunesmith.core.errors import UserError, near_miss

# The name of the base among the adapters.
BASE = "base"

# Of one layer: A [R, K], B [D, R] and alpha / r.
Factors = tuple[torch.Tensor, torch.Tensor, float]


class _Adapter:
    """An adapter's numbers in one piece of memory, cut into the tensors of its layers when it is first used."""

    def __init__(self, factors: Mapping[str, Factors], dtype: torch.dtype, device: torch.device) -> None:
        self._shapes = [(layer, a.shape, b.shape, scaling) for layer, (a, b, scaling) in factors.items()]
        pieces = [x.detach().to(device, dtype).flatten() for a, b, _ in factors.values() for x in (a, b)]
        self.numbers = torch.cat(pieces)

    @cached_property
    def factors(self) -> dict[str, Factors]:
        """Layer -> its factors, as views."""
        found, start = {}, 0
        for layer, shape_a, shape_b, scaling in self._shapes:
            middle = start + shape_a.numel()
            end = middle + shape_b.numel()
            found[layer] = self.numbers[start:middle].view(shape_a), self.numbers[middle:end].view(shape_b), scaling
            start = end
        return found


class ResidentLinear(nn.Module):
    """A frozen linear layer and the updates that the resident adapters make to it."""

    def __init__(self, base: nn.Module, name: str, residents: Residents) -> None:
        super().__init__()
        self.base, self.name = base, name
        # Not as a part of this module: it belongs to the model.
        object.__setattr__(self, "residents", residents)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map x [rows, ..., K] to [rows, ..., D]."""
        return self.add_updates_(self.base(x), x)

    def add_updates_(self, out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """Add the updates for x [rows, ..., K] to out [rows, ..., D] in place, and return it."""
        for factors, rows in self.residents.parts:
            if self.name not in factors:
                continue
            a, b, scaling = factors[self.name]
            if rows is None:
                out.add_(nn.functional.linear(nn.functional.linear(x, a), b), alpha=scaling)
            else:
                inner = nn.functional.linear(x.index_select(0, rows), a)
                out.index_add_(0, rows, nn.functional.linear(inner, b), alpha=scaling)
        return out


class Residents:
    """The adapters of one model, on it as its `residents`.

    Attributes:
        active: the adapter that is switched on; None = the base.
        parts: who computes what of the pass that runs: (factors by layer, numbers of its rows or None for all).
        mounted: how often layers of the model were put in place of others.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._adapters: dict[str, _Adapter] = {}
        self._layers: dict[str, nn.Module] = {}
        self.active: str | None = None
        self.parts: list[tuple[dict[str, Factors], torch.Tensor | None]] = []
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
        del self._adapters[name]

    def switch(self, name: str | None) -> None:
        """Switch to an adapter; None or "base" = to the model without any. No weight is touched.

        Raises:
            UserError: there is none of this name.
        """
        name = None if name == BASE else name
        self.parts = [(self._factors(name), None)] if name else []
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
        rows: dict[str, list[int]] = {}
        start = 0
        for name, count in runs:
            rows.setdefault(name or self.active or BASE, []).extend(range(start, start + count))
            start += count
        before = self.parts
        whole = len(rows) == 1
        self.parts = [
            (self._factors(name), None if whole else torch.tensor(own, device=self._model.device))
            for name, own in rows.items()
            if name != BASE
        ]
        try:
            yield
        finally:
            self.parts = before

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
