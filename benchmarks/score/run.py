"""lm-eval's `HFLM` and ours by turns on the same requests; medians of pairwise ratios go to results.json.

Usage: python benchmarks/score/run.py [--pairs 3] [--levers]      (needs the package lm-eval)
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import rows

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from commands import machine, run_json  # noqa: E402


def one(who: str, path: Path, *more: str, left_out: str = "") -> dict[str, Any]:
    """Score a file in a process of its own."""
    words = [sys.executable, str(HERE / "one.py"), who, str(path), *more]
    return run_json(words, TUNESMITH_WITHOUT=left_out)


def compared(path: Path, pairs: int) -> dict[str, Any]:
    """Alternate both in bfloat16, and compare the scores of both in float32."""
    found, ratios = [], []
    for _ in range(pairs):
        theirs, ours = one("hflm", path), one("ours", path)
        found.append({who["who"]: {k: v for k, v in who.items() if k not in ("scores", "who")} for who in (theirs, ours)})
        ratios.append(ours["requests_per_second"] / theirs["requests_per_second"])
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    exact = [one(who, path, "--dtype", "float32")["scores"] for who in ("hflm", "ours")]
    largest = max(abs(a - b) for a, b in zip(*exact, strict=True))
    return {"times_lm_eval": statistics.median(ratios), "ratios": ratios, "largest_difference_fp32": largest, "rounds": found}


def main() -> None:
    """Measure and write results.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--levers", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "few_shot": rows.write(Path(folder) / "few_shot.jsonl", rows.few_shot()),
            "zero_shot": rows.write(Path(folder) / "zero_shot.jsonl", rows.zero_shot()),
        }
        results: dict[str, Any] = {"machine": machine()}
        results |= {name: compared(path, options.pairs) for name, path in files.items()}
        if options.levers:
            for name, path in files.items():
                for lever in ("packed", "prefixes", "decoder"):
                    both = [one("ours", path, left_out=w)["seconds"] for _ in range(options.pairs) for w in ("", lever)]
                    ratios = [b / a for a, b in zip(both[::2], both[1::2], strict=True)]
                    results[name][f"times_longer_without_{lever}"] = statistics.median(ratios)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    summary = {n: {k: v for k, v in r.items() if k != "rounds"} for n, r in results.items() if isinstance(r, dict)}
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
