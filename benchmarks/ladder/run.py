"""Run the main job, `tunesmith ladder movies`, from nothing and keep its numbers in results.json.

Usage: python benchmarks/ladder/run.py [RUN_DIR]

Routes that are finished in RUN_DIR are not climbed again; `seconds` is the work of all routes, whenever it was done.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
KEPT = (
    *("route", "kind", "value", "low", "high", "n", "draws", "metrics", "valid", "trained_parameters", "seconds"),
    *("evaluation_seconds", "peak_memory_gb", "tokens_per_query", "ms_per_query", "p50_ms", "p95_ms", "forgetting", "notes"),
)


def main() -> None:
    """Run the ladder as a user would and write what it measured."""
    run_dir = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp()) / "movies"
    subprocess.run([sys.executable, "-m", "tunesmith", "ladder", "movies", "--run_dir", str(run_dir)], check=True)
    report = json.loads((run_dir / "report.json").read_text(encoding="utf-8"))
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    result = {
        "command": "tunesmith ladder movies", "commit": commit, "seconds": round(report["seconds"], 1),
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine()}, "versions": report["provenance"],
        "verdict": report["verdict"], "routes": [{k: route[k] for k in KEPT} for route in report["routes"]],
        "differences": report["differences"],
    }  # fmt: skip
    (HERE / "results.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
