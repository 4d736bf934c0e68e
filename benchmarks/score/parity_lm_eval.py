"""The numbers of `TunesmithLM` beside those of lm-eval's `HFLM` on a real model, in float32: largest differences, and time.

    python benchmarks/score/parity_lm_eval.py --model smollm2 --items 40

Multiple choice with 0 and 3 shots, generation with stop strings and rolling perplexity, on film reviews. Ends with exit
code 1 if a log-likelihood differs by more than 1e-4 nats, if one of them calls greedy what the other does not, or if a
generated text differs.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from tunesmith.data.task import load_task
from tunesmith.evaluate.lm_eval_model import TunesmithLM
from tunesmith.models.load import load

# A window of 1,024 tokens is summed, so rounding of single tokens adds up.
LARGEST = {"choices": 1e-4, "few_shot": 1e-4, "rolling": 5e-3}


def main() -> int:
    """Compare; returns the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    lm = load(a.model, dtype="fp32", device="cpu")
    ours, theirs = TunesmithLM(lm), HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=8, device="cpu")
    task = load_task("movies")
    test, shown = task.splits.test[: a.items], task.splits.train[:3]
    shots = "".join(f"Review: {row.fields['text']}\nSentiment: {task.gold(row)}\n\n" for row in shown)
    prompts = [f"Review: {row.fields['text']}\nSentiment:" for row in test]
    pairs = [(prompt, f" {label}") for prompt in prompts for label in ("negative", "positive", "hard to say")]
    asked = {
        "choices": ("loglikelihood", pairs),
        "few_shot": ("loglikelihood", [(shots + prompt, said) for prompt, said in pairs]),
        "rolling": ("loglikelihood_rolling", [("\n".join(str(row.fields["text"]) for row in test),)]),
        "generated": ("generate_until", [(p, {"until": ["\n\n"], "max_gen_toks": 24, "do_sample": False}) for p in prompts[:8]]),
    }
    failed = False
    for name, (kind, arguments) in asked.items():
        requests = [Instance(kind, {}, one, i) for i, one in enumerate(arguments)]  # type: ignore[arg-type]
        mine, my_seconds = timed(getattr(ours, kind), requests)
        other, other_seconds = timed(getattr(theirs, kind), requests)
        found: dict[str, Any] = {"what": name, "requests": len(requests), "seconds": my_seconds, "hflm_seconds": other_seconds}
        if kind == "generate_until":
            found["different_texts"] = sum(m != o for m, o in zip(mine, other, strict=True))
            failed |= found["different_texts"] > 0
        else:
            values = [[v if isinstance(v, float) else v[0] for v in answers] for answers in (mine, other)]
            found["largest_difference"] = max(abs(m - o) for m, o in zip(*values, strict=True))
            failed |= found["largest_difference"] > LARGEST[name]
        if kind == "loglikelihood":
            found["different_greedy"] = sum(m[1] != o[1] for m, o in zip(mine, other, strict=True))
            found["greedy"] = sum(m[1] for m in mine)
            failed |= found["different_greedy"] > 0
        print(json.dumps(found), flush=True)
    return int(failed)


def timed(ask: Callable[..., list[Any]], requests: list[Instance]) -> tuple[list[Any], float]:
    """Return answers and seconds."""
    start = time.perf_counter()
    answers = ask(requests, disable_tqdm=True)
    return answers, round(time.perf_counter() - start, 2)


if __name__ == "__main__":
    sys.exit(main())
