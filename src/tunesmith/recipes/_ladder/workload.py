"""How much work a route is, before it is done: what `plan` prints and the ladder promises."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

# Share of the processor's matrix-product speed that a whole forward pass reaches here; measured, see docs/log.md.
_EFFICIENCY = 0.45
_START_SECONDS = 8.0
# Weights of MiniLM that multiply something, and the memory that its training took here.
_ENCODER_WEIGHTS = 10_800_000
_ENCODER_GB = 1.2


@dataclass(frozen=True)
class Sizes:
    """What a task and a model amount to.

    Attributes:
        items: test rows. prompt_tokens: mean tokens of a bare prompt. train_tokens: tokens of all training rows, over all
            epochs. validation, guard: rows asked during training and for forgetting.
        weights: number of weights. bytes_per_weight: 2 in bf16, 4 in fp32. micro_batch: tokens in one.
        width: hidden size x layers, which activations grow with.
    """

    items: int
    prompt_tokens: float
    train_tokens: float
    validation: int
    guard: int
    weights: int
    bytes_per_weight: int
    micro_batch: int
    width: int


@dataclass(frozen=True)
class Workload:
    """Tokens to push through the model, counted as forward passes, seconds beside that, and peak memory."""

    forward_tokens: float
    seconds: float = 0.0
    memory_gb: float = 0.0


def training(sizes: Sizes, passes: float, bytes_per_weight: float) -> Workload:
    """Work and memory of a trained route: training, its evaluations, the test and the guard set twice."""
    asked = sizes.items + 2 * sizes.validation + 6 * sizes.guard
    tokens = passes * sizes.train_tokens + asked * sizes.prompt_tokens
    # About 34 values a token, layer and unit of width are kept for the backward pass of a Llama block.
    activations = sizes.micro_batch * sizes.width * 34 * sizes.bytes_per_weight / 2
    return Workload(tokens, memory_gb=0.6 + (sizes.weights * bytes_per_weight + activations) / 1e9)


def encoder_training(sizes: Sizes, tokens: float, answered: float = 1.0) -> Workload:
    """Work and memory of training an encoder, counted in forward passes of the ladder's model.

    Args:
        tokens: trained on, over all epochs. answered: how often the items are asked.
    """
    share = _ENCODER_WEIGHTS / sizes.weights
    return Workload(share * (3 * tokens + answered * sizes.items * sizes.prompt_tokens), memory_gb=_ENCODER_GB)


def seconds_of(work: Workload, tokens_per_second: float) -> float:
    """Return about how long a workload takes, starting a process included."""
    return _START_SECONDS + work.seconds + work.forward_tokens / tokens_per_second


def memory_of(work: Workload, sizes: Sizes) -> float:
    """Return about how much memory a workload needs, 10^9 bytes."""
    return max(work.memory_gb, 0.7 + sizes.weights * sizes.bytes_per_weight * 1.6 / 1e9)


def forward_rate(weights: int, dtype: str) -> float:
    """Measure this machine's matrix products for a moment and return about how many tokens a second a forward pass reads."""
    import time

    import torch

    from tunesmith.models.load import choose_dtype

    precision = choose_dtype(dtype)
    a, b = torch.randn(512, 1024, dtype=precision), torch.randn(1024, 1024, dtype=precision)
    times = []
    for _ in range(12):
        start = time.perf_counter()
        for _ in range(4):
            torch.matmul(a, b)
        times.append((time.perf_counter() - start) / 4)
    flops = 2 * 512 * 1024 * 1024 / sorted(times)[len(times) // 2]
    return _EFFICIENCY * flops / (2 * weights)


def weights_of(folder: Path) -> int:
    """Count the weights of a model directory from its safetensors headers, without loading any."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        total += sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    return total
