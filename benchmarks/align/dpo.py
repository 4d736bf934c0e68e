"""DPO with LoRA, ours and TRL's by turns on the same pairs of chat answers; medians of pairwise ratios go to dpo.json.

Usage: python benchmarks/align/dpo.py --peer PYTHON [--rows 12] [--pairs 3] [--batch 4]

--peer names the Python of an environment with TRL (see peer_dpo.py); without it only ours is measured. Prompts are
conversations of topical_chat (BIG-bench) of at most 256 tokens; what was said is preferred to what was said in another one. The
time of an epoch includes asking the reference.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "train")]

from commands import machine, run_json  # noqa: E402
from rows import write_rows  # noqa: E402

from tunesmith.models.embedded import folder_of  # noqa: E402
from tunesmith.models.load import load_tokenizer  # noqa: E402


def write_pairs(path: Path, count: int) -> None:
    """Write pairs as turns."""
    write_rows(path, load_tokenizer("smollm2"), count, longest=256)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    said = lambda text: [{"role": "assistant", "content": text}]  # noqa: E731
    pairs = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": said(row["completion"]),
            "rejected": said(other["completion"]),
        }
        for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
        if row["completion"] != other["completion"]
    ]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")


def ours(pairs: Path, folder: Path, batch: int) -> dict[str, Any]:
    """Align as a user would; the losses are those of metrics.jsonl."""
    words = [sys.executable, "-m", "tunesmith", "align", str(pairs), "--method", "dpo", "--run_dir", str(folder), "--overwrite"]
    words += ["--batch_size", str(batch), "--learning_rate", "1e-4", "--test_share", "0", "--dtype", "bf16", "--json"]
    report = run_json(words)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {
        "pairs_per_second": report["judgements"] / report["seconds"], "seconds": report["seconds"],
        "peak_memory_gb": report["peak_memory_gb"], "losses": [line["loss"] for line in lines],
        "steps_seconds": [line["step_time"] for line in lines], "tokens": report["tokens"],
    }  # fmt: skip


def main() -> None:
    """Measure and write dpo.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer")
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=3, help="rounds of one after the other")
    parser.add_argument("--batch", type=int, default=4)
    options = parser.parse_args()
    target = HERE / "dpo.json"
    rounds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_pairs(folder / "pairs.jsonl", options.rows)
        for number in range(options.pairs):
            calls = {"ours": lambda: ours(folder / "pairs.jsonl", folder / "run", options.batch)}
            if options.peer:
                peer = [options.peer, str(HERE / "peer_dpo.py"), str(folder_of("smollm2")), str(folder / "pairs.jsonl")]
                calls["trl"] = lambda peer=peer: run_json([*peer, "--batch", str(options.batch)])
            rounds.append({name: calls[name]() for name in sorted(calls, reverse=number % 2 == 0)})
            print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
    if not options.peer:
        return
    middle = lambda values: statistics.median(list(values))  # noqa: E731
    result = {
        "times_trl": middle(r["ours"]["pairs_per_second"] / r["trl"]["pairs_per_second"] for r in rounds),
        "memory_of_trl": middle(r["ours"]["peak_memory_gb"] / r["trl"]["peak_memory_gb"] for r in rounds),
        "pairs_per_second": middle(r["ours"]["pairs_per_second"] for r in rounds),
        "settings": {"rows": options.rows, "batch": options.batch, "lora": 16},
        "machine": machine(),
        "rounds": rounds,
    }
    target.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: value for key, value in result.items() if key != "rounds"}))


if __name__ == "__main__":
    main()
