"""Ours, the peer and the floor by turns on the same real chat rows; medians of pairwise ratios go to results.json.

Usage: python benchmarks/train/run.py [--peer PYTHON] [--rows 24] [--pairs 3] [--methods lora,full] [--levers] [--losses]

--peer names the Python of an environment with TRL (see peer_trl.py); without it, only ours and the floor are measured.
--levers also measures ours with each lever left out, by turns with all of them on.
--losses compares the loss of every step with that of plain float32, for each method, and measures nothing else.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rows import write_rows

from tunesmith.core.levers import LEVERS
from tunesmith.models.embedded import folder_of
from tunesmith.models.load import load_tokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from commands import machine, run_json  # noqa: E402


def ours(
    rows: Path, method: str, folder: Path, left_out: str = "", model: str = "smollm2", dtype: str = "bf16"
) -> dict[str, Any]:
    """Train as a user would; the losses are those of metrics.jsonl."""
    words = [sys.executable, "-m", "tunesmith", "tune", str(rows), "--peft", method, "--run_dir", str(folder), "--overwrite"]
    words += ["--batch_size", "8", "--learning_rate", "1e-4", "--validation_rows", "0", "--guard", "false", "--model", model]
    words += ["--dtype", dtype, "--json"]
    report = run_json(words, TUNESMITH_WITHOUT=left_out)
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    kept = {key: report[key] for key in ("tokens", "tokens_per_second", "peak_memory_gb")}
    return {**kept, "losses": [json.loads(line)["loss"] for line in lines]}


def against_peer(options: argparse.Namespace, rows: Path, method: str, folder: Path) -> dict[str, Any]:
    """Alternate peer, ours and floor; ratios are made within each round."""
    rounds = []
    for _ in range(options.pairs):
        peer = [options.peer, str(HERE / "peer_trl.py"), str(folder_of("smollm2")), str(rows), method]
        entry = {"trl": run_json(peer)} if options.peer else {}
        entry |= {"ours": ours(rows, method, folder), "floor": run_json([sys.executable, str(HERE / "floor.py")])}
        rounds.append(entry)
        print(json.dumps(entry), file=sys.stderr, flush=True)
    speed = [r["ours"]["tokens_per_second"] for r in rounds]
    found: dict[str, Any] = {
        "tokens_per_second": statistics.median(speed),
        "share_of_floor": statistics.median(s / r["floor"][method] for s, r in zip(speed, rounds, strict=True)),
    }
    if options.peer:
        found["times_trl"] = statistics.median(s / r["trl"]["tokens_per_second"] for s, r in zip(speed, rounds, strict=True))
        found["memory_of_trl"] = statistics.median(r["ours"]["peak_memory_gb"] / r["trl"]["peak_memory_gb"] for r in rounds)
    return {**found, "rounds": rounds}


def against_plain(options: argparse.Namespace, rows: Path, method: str, folder: Path) -> dict[str, Any]:
    """Return the losses of every step, ours and those of float32 with every lever left out, and how far they are apart."""
    fast = ours(rows, method, folder)["losses"]
    plain = ours(rows, method, folder, "all", dtype="fp32")["losses"]
    apart = [abs(a - b) / b for a, b in zip(fast, plain, strict=True)]
    print(method, max(apart), file=sys.stderr, flush=True)
    return {"largest_difference": max(apart), "mean_difference": statistics.mean(apart), "ours": fast, "plain_fp32": plain}


def without_levers(options: argparse.Namespace, rows: Path, folder: Path) -> dict[str, float]:
    """Return how many times longer a LoRA step takes with each lever left out."""
    found = {}
    for lever in [*(lever for lever in LEVERS if lever != "compile"), "all"]:
        ratios = []
        for _ in range(options.pairs):
            both = [ours(rows, "lora", folder, left_out)["tokens_per_second"] for left_out in ("", lever)]
            ratios.append(both[0] / both[1])
        found[lever] = statistics.median(ratios)
        print(lever, found[lever], file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Measure and write results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--methods", default="lora,full")
    parser.add_argument("--levers", action="store_true")
    parser.add_argument("--losses", action="store_true")
    options = parser.parse_args()
    path = HERE / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        rows, folder = Path(temporary) / "rows.jsonl", Path(temporary) / "run"
        tokens = write_rows(rows, load_tokenizer("smollm2"), options.rows)
        for method in filter(None, options.methods.split(",")):
            if options.losses:
                found = against_plain(options, rows, method, folder)
                results.setdefault("losses", {})[method] = {"rows": options.rows, **found}
                continue
            results[method] = {"rows": options.rows, "row_tokens": tokens, **against_peer(options, rows, method, folder)}
        if options.levers:
            results["times_longer_without"] = {"rows": options.rows, **without_levers(options, rows, folder)}
    results["machine"] = machine()
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
