"""Adapters at work on smollm2: a hundred in memory, the time of a switch, and batches whose rows have different adapters.

Usage: python benchmarks/finetune/adapters.py [--rank 16] [--adapters 100] [--rows 32] [--new_tokens 32]     # adapters.json

The adapters' numbers are drawn: what is measured here does not depend on what they learned.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
OPENINGS = (
    "The film was",
    "I watched this movie last night and",
    "Write a short review of a restaurant:",
    "My phone arrived and",
)


def drawn(model: Any, rank: int, seed: int) -> dict[str, Any]:
    """Return factors for every linear layer but the head, as a trained adapter has them."""
    import torch

    chance = torch.Generator().manual_seed(seed)
    head = model.get_output_embeddings()
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not head:
            d, k = module.weight.shape
            a, b = torch.randn(rank, k, generator=chance) / k**0.5, torch.randn(d, rank, generator=chance) * 0.01
            found[name] = a.bfloat16(), b.bfloat16(), 2.0
    return found


def resident(lm: Any, rank: int, count: int) -> dict[str, float]:
    """Put `count` adapters on the model and say what that took."""
    from tunesmith.core.memory import resident_gb
    from tunesmith.models.residents import Residents

    factors = [drawn(lm.model, rank, seed) for seed in range(4)]
    before = resident_gb()
    residents = lm.model.residents = Residents(lm.model)
    for number in range(count):
        residents.put(f"adapter-{number}", factors[number % 4])
    stored = resident_gb()
    switches = switching(lm)  # every one used
    return {
        "numbers_each": residents.parameters // count, "base_process_gb": before, "stored_gb": stored - before,
        "used_gb": resident_gb() - before, **switches,
    }  # fmt: skip


def switching(lm: Any) -> dict[str, float]:
    """Milliseconds of a switch: the first to each adapter, and later ones."""
    first, later = [], []
    for times, rounds in ((first, 1), (later, 20)):
        for name in lm.adapters.names * rounds:
            start = time.perf_counter()
            lm.adapters.switch(name)
            times.append(1000 * (time.perf_counter() - start))
    lm.adapters.switch(None)
    return {
        "first_median_ms": statistics.median(first), "first_most_ms": max(first), "later_median_ms": statistics.median(later),
        "later_most_ms": max(later),
    }  # fmt: skip


def generating(lm: Any, rows: int, adapters: int, new_tokens: int) -> dict[str, Any]:
    """Tokens a second (and of processor time): all rows in one batch, adapter after adapter, and in one batch without any."""
    from tunesmith.core.encode import token_ids
    from tunesmith.models.generate import Sampling, complete

    prompts = [token_ids(lm.tokenizer, f"{n}. {OPENINGS[n % 4]}") for n in range(rows)]
    names = [f"adapter-{n % adapters}" for n in range(rows)]
    how = Sampling(new_tokens, 0.0)
    complete(lm, prompts[:2], Sampling(2, 0.0), adapters=names[:2])

    def rate(calls: list[list[int]], chosen: list[str]) -> dict[str, float]:
        start, cpu, made = time.perf_counter(), time.process_time(), 0
        for call in calls:
            made += sum(len(c.ids) for c in complete(lm, [prompts[i] for i in call], how, adapters=[chosen[i] for i in call]))
        return {"per_second": made / (time.perf_counter() - start), "per_cpu_second": made / (time.process_time() - cpu)}

    everything = [list(range(rows))]
    by_adapter = [[i for i in range(rows) if i % adapters == a] for a in range(adapters)]
    return {
        "mixed": rate(everything, names), "one_at_a_time": rate(by_adapter, names), "base": rate(everything, ["base"] * rows),
    }  # fmt: skip


def scoring(lm: Any, rows: int, adapters: int) -> dict[str, Any]:
    """Requests a second, and a second of processor time: mixed, adapter after adapter, and without any adapter."""
    from tunesmith.core.encode import token_ids
    from tunesmith.models.score import Request, score_requests

    prompts = [token_ids(lm.tokenizer, f"{n}. {OPENINGS[n % 4]} " * 4) for n in range(rows)]
    choices = (token_ids(lm.tokenizer, " good"), token_ids(lm.tokenizer, " bad"))

    def rate(calls: list[list[int]], name: str) -> dict[str, float]:
        start, cpu = time.perf_counter(), time.process_time()
        for call in calls:
            score_requests(lm, [Request(prompts[i], choices, name or f"adapter-{i % adapters}") for i in call])
        return {"per_second": rows / (time.perf_counter() - start), "per_cpu_second": rows / (time.process_time() - cpu)}

    by_adapter = [[i for i in range(rows) if i % adapters == a] for a in range(adapters)]
    rate([[0, 1]], "")
    return {
        "mixed": rate([list(range(rows))], ""), "one_at_a_time": rate(by_adapter, ""), "base": rate([list(range(rows))], "base")
    }  # fmt: skip


def main() -> None:
    """Measure everything and write adapters.json."""
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--rank", type=int, default=16)
    words.add_argument("--adapters", type=int, default=100)
    words.add_argument("--new_tokens", type=int, default=32)
    words.add_argument("--rows", type=int, default=32)
    given = words.parse_args()
    import torch

    from tunesmith.models.load import load
    from tunesmith.models.trunk import trunk_of
    from tunesmith.recipes._models import use_threads

    use_threads(2)
    lm = load("smollm2", "bf16")
    results: dict[str, Any] = {
        "rank": given.rank, "adapters": given.adapters, "torch": torch.__version__, "machine": platform.machine(),
        "resident": resident(lm, given.rank, given.adapters),
    }  # fmt: skip
    print(json.dumps(results["resident"]), flush=True)
    trunk_of(lm.model, pack=True)
    for rows, adapters in ((given.rows, given.rows), (given.rows, given.rows // 4)):
        results[f"generate {rows} rows, {adapters} adapters"] = generating(lm, rows, adapters, given.new_tokens)
        print(json.dumps(results[f"generate {rows} rows, {adapters} adapters"]), flush=True)
    for rows, adapters in ((4 * given.rows, given.rows // 4),):
        results[f"score {rows} requests, {adapters} adapters"] = scoring(lm, rows, adapters)
    text = json.dumps(results, indent=2)
    Path(__file__).with_name("adapters.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
