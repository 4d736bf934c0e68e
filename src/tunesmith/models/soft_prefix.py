"""Trained positions in front of everything a model reads: soft prompts (embeddings), and prefixes of keys and values.

To the model both are a cache of p positions that comes before the first real token, which stands at position p; that is how
scoring and generation see them. Training needs their gradients, so `models.decoder` asks for the values themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

KeysAndValues = Sequence[tuple[torch.Tensor, torch.Tensor]]


class SoftPrefix(nn.Module):
    """p trained positions, on a model as its `soft_prefix`.

    Args:
        encoder: called without arguments, returns [p, W], float32; its parameters are what is trained.
        length: p.
        cache_shape: (L, H, D_head) where the W = 2 L H D_head values are keys and values of every layer, laid out as
            Hugging Face PEFT does; None where they are embeddings.
    """

    def __init__(self, encoder: nn.Module, length: int, cache_shape: tuple[int, int, int] | None = None) -> None:
        super().__init__()
        self.encoder, self.length, self.cache_shape, self.enabled = encoder, length, cache_shape, True

    def values(self) -> torch.Tensor:
        """Return everything as one tensor [p, W]: what is saved."""
        return self.encoder()

    def embeddings(self) -> torch.Tensor:
        """Return the virtual tokens [p, D]."""
        assert self.cache_shape is None
        return self.values()

    def key_values(self, dtype: torch.dtype) -> KeysAndValues:
        """Return per layer its keys and values, each [1, H, p, D_head]."""
        assert self.cache_shape is not None
        layers, heads, width = self.cache_shape
        parts = self.values().to(dtype).view(self.length, 2 * layers, heads, width).permute(1, 2, 0, 3)
        return [(parts[2 * layer][None], parts[2 * layer + 1][None]) for layer in range(layers)]


def soft_prefix_of(model: Any) -> SoftPrefix | None:
    """Return the model's soft prefix if it has one and it is not switched off."""
    soft: SoftPrefix | None = getattr(model, "soft_prefix", None)
    return soft if soft is not None and soft.enabled else None


def prefix_length(model: Any) -> int:
    """Return how many positions of the context the soft prefix takes; 0 without one."""
    soft = soft_prefix_of(model)
    return soft.length if soft else 0


def prefix_key_values(model: Any) -> KeysAndValues | None:
    """Return the soft prefix as per layer keys and values [1, H, p, D_head], without gradients; None without a soft prefix.

    Virtual tokens are read by the model once: they see nothing but each other, whatever comes after them.
    """
    soft = soft_prefix_of(model)
    if soft is None:
        return None
    with torch.no_grad():
        if soft.cache_shape:
            return soft.key_values(model.dtype)
        cache = cache_of(None, 1)
        embeddings = soft.embeddings().to(model.dtype)[None]
        model.base_model(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
        return [(layer.keys, layer.values) for layer in cache.layers]


def cache_of(prefix: KeysAndValues | None, rows: int) -> Any:
    """Return a cache of transformers that begins with a prefix in each of so many rows; empty without a prefix."""
    from transformers import DynamicCache

    cache: Any = DynamicCache()
    for layer, (keys, values) in enumerate(prefix or ()):
        cache.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), layer)
    return cache
