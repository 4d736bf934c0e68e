"""The floor of a training step: its matrix products and torch's own causal attention at smollm2's shapes, nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F

TOKENS, LENGTH, LAYERS, HEADS, WIDTH = 2048, 512, 30, 9, 576
SHAPES = {
    "q": (576, 576), "k": (192, 576), "v": (192, 576), "o": (576, 576), "gate": (1536, 576), "up": (1536, 576),
    "down": (576, 1536),
}  # fmt: skip


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Best of several."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def main() -> None:
    """Print tokens per second of LoRA and full training if only this took time."""
    weights = {n: torch.randn(s, dtype=torch.bfloat16) for n, s in SHAPES.items()}
    x = {n: torch.randn(TOKENS, k, dtype=torch.bfloat16) for n, (_, k) in SHAPES.items()}
    g = {n: torch.randn(TOKENS, d, dtype=torch.bfloat16) for n, (d, _) in SHAPES.items()}
    forward = seconds(lambda: [F.linear(x[n], weights[n]) for n in SHAPES])
    of_input = seconds(lambda: [g[n] @ weights[n] for n in SHAPES])
    of_weight = seconds(lambda: [g[n].T @ x[n] for n in SHAPES])
    q = torch.randn(TOKENS // LENGTH, HEADS, LENGTH, WIDTH // HEADS, dtype=torch.bfloat16, requires_grad=True)
    attention = seconds(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward(), 3)
    rate = {
        "lora": forward + of_input + attention,
        "lora_without_attention": forward + of_input,
        "full": forward + of_input + of_weight + attention,
        "full_without_attention": forward + of_input + of_weight,
    }
    print(json.dumps({name: TOKENS / (LAYERS * time) for name, time in rate.items()}))


if __name__ == "__main__":
    main()
