"""Score the rows of a file with lm-eval's `HFLM` or with ours behind the same interface; one JSON line.

Usage: python benchmarks/score/one.py hflm|ours ROWS.jsonl [--dtype bfloat16] [--batch 8]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def model_of(who: str, dtype: str, batch: int) -> Any:
    """Load SmolLM2 for lm-eval."""
    import torch

    from tunesmith.core.memory import use_large_pages
    from tunesmith.models.embedded import folder_of
    from tunesmith.models.load import load

    torch.set_num_threads(2)
    if who == "ours":
        from tunesmith.evaluate.lm_eval_model import TunesmithLM

        use_large_pages()
        return TunesmithLM(load("smollm2", dtype))
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = folder_of("smollm2")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=batch, device="cpu")


def main() -> None:
    """Measure and print."""
    from lm_eval.api.instance import Instance

    parser = argparse.ArgumentParser()
    parser.add_argument("who", choices=("hflm", "ours"))
    parser.add_argument("rows")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    items = [json.loads(line) for line in Path(options.rows).read_text(encoding="utf-8").splitlines()]
    requests = [Instance("loglikelihood", {}, (it["context"], c), i) for i, it in enumerate(items) for c in it["choices"]]
    model = model_of(options.who, options.dtype, options.batch)
    start = time.perf_counter()
    scores = [score for score, _ in model.loglikelihood(requests, disable_tqdm=True)]
    seconds = time.perf_counter() - start
    right = at = 0
    for item in items:
        mine = scores[at : at + len(item["choices"])]
        right += mine.index(max(mine)) == item["gold"]
        at += len(mine)
    found = {"requests": len(requests), "seconds": seconds, "requests_per_second": len(requests) / seconds}
    print(json.dumps({"who": options.who, **found, "accuracy": right / len(items), "scores": scores}))


if __name__ == "__main__":
    main()
