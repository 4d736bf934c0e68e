"""Learning rates that fall from layer to layer (ULMFiT: Howard & Ruder 2018, 3.2; BERT-style encoders: Clark et al. 2020)."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYER = re.compile(r"\.(?:layers?|h|block)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed|\.wte\.|\.wpe\.|shared\.")


def rates_by_layer(names: Iterable[str], decay: float) -> dict[str, float]:
    """Return parameter name -> factor of the learning rate, where it is not 1.

    With L layers, a parameter of layer l = 0 .. L - 1 has decay^(L - l), the embeddings decay^(L + 1), and whatever stands on the
    last layer (pooler, head, last norm) has 1.

    Args:
        names: as `named_parameters` gives them; layers are counted among these.
        decay: in (0, 1]; 1 = the same rate for all.
    """
    names = list(names)
    found = {name: int(match[1]) for name in names if (match := _LAYER.search(f".{name}"))}
    if decay == 1.0 or not found:
        return {}
    layers = 1 + max(found.values())
    rates = {name: decay ** (layers - layer) for name, layer in found.items()}
    return rates | {name: decay ** (layers + 1) for name in names if name not in found and _EMBEDDING.search(f".{name}")}
