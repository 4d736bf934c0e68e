"""`transformers generate` and ours by turns: sampled tokens per second at batch 1, 8, 32; medians go to results.json.

Usage: python benchmarks/generate/run.py [--pairs 3] [--new_tokens 48] [--levers]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from commands import machine, run_json  # noqa: E402

BATCHES = (1, 8, 32)
OPENINGS = (
    "The film was",
    "I watched this movie last night and",
    "Write a short review of a restaurant:",
    "My phone arrived and",
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def prompts(count: int) -> list[str]:
    """Return different prompts of 4 to 12 tokens."""
    return [f"{number}. {OPENINGS[number % len(OPENINGS)]}" for number in range(count)]


def library(new_tokens: int) -> dict[str, float]:
    """Sample with transformers' own loop, bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tunesmith.models.embedded import folder_of

    torch.set_num_threads(2)
    folder = folder_of("smollm2")
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    rates = {}
    for batch in BATCHES:
        inputs = tokenizer(prompts(batch), return_tensors="pt", padding=True)
        model.generate(**inputs, max_new_tokens=4, do_sample=False)
        start = time.perf_counter()
        model.generate(**inputs, max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=True, top_k=0)
        rates[str(batch)] = batch * new_tokens / (time.perf_counter() - start)
    return rates


def ours(new_tokens: int) -> dict[str, float]:
    """Sample with our engine, bfloat16; as for the library, no token ends an answer."""
    import torch

    from tunesmith.core.memory import use_large_pages
    from tunesmith.models.generate import generate
    from tunesmith.models.load import LM, load

    use_large_pages()
    torch.set_num_threads(2)
    lm = load("smollm2", "bf16")
    LM.stop_ids = property(lambda self: frozenset())  # type: ignore[assignment]
    rates = {}
    for batch in BATCHES:
        generate(lm, prompts(batch), max_new_tokens=4, temperature=0)
        start = time.perf_counter()
        answers = generate(lm, prompts(batch), max_new_tokens=new_tokens, temperature=1.0)
        rates[str(batch)] = sum(len(a.ids) for [a] in answers) / (time.perf_counter() - start)
    return rates


def one(who: str, new_tokens: int, left_out: str = "") -> dict[str, float]:
    """Measure in a process of its own."""
    words = [sys.executable, __file__, "--one", who, "--new_tokens", str(new_tokens)]
    return run_json(words, TUNESMITH_WITHOUT=left_out)


def ratios(first: list[dict[str, float]], second: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of second / first, batch size by batch size."""
    return {b: statistics.median(s[b] / f[b] for f, s in zip(first, second, strict=True)) for b in first[0]}


def main() -> None:
    """Measure and write results.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--levers", action="store_true")
    parser.add_argument("--one", choices=("library", "ours"))
    options = parser.parse_args()
    if options.one:
        print(json.dumps({"library": library, "ours": ours}[options.one](options.new_tokens)))
        return
    rounds = []
    for _ in range(options.pairs):
        rounds.append({who: one(who, options.new_tokens) for who in ("library", "ours")})
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    results: dict[str, Any] = {"machine": machine()}
    results["times_generate"] = ratios([r["library"] for r in rounds], [r["ours"] for r in rounds])
    results["tokens_per_second"] = {b: statistics.median(r["ours"][b] for r in rounds) for b in rounds[0]["ours"]}
    for lever in ("packed", "decoder") if options.levers else ():
        pairs = [(one("ours", options.new_tokens, lever), one("ours", options.new_tokens)) for _ in range(options.pairs)]
        results[f"times_longer_without_{lever}"] = ratios([a for a, _ in pairs], [b for _, b in pairs])
    results["rounds"] = rounds
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({k: v for k, v in results.items() if k != "rounds"}, indent=1))


if __name__ == "__main__":
    main()
