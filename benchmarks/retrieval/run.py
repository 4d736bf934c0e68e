"""Index 10,000 passages from the fetched data, ask 200 questions one at a time, and keep the numbers in results.json.

Usage: python benchmarks/retrieval/run.py [THREADS]

The floor that the issue sets: after indexing, a question is answered within 50 ms. A question's time includes embedding it.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SOURCES = ("hutto_movies", "hutto_tweets", "hutto_products", "hutto_editorials")
PASSAGES, QUESTIONS, CHANGED = 10_000, 200, 100


def texts() -> list[str]:
    """Return the different texts of the four sources in an order that depends on nothing but them."""
    from tunesmith.core.files import text_hash
    from tunesmith.core.registry import SOURCES as REGISTRY

    found = {row.fields["text"] for name in SOURCES for rows in REGISTRY.get(name).splits().values() for row in rows}
    return sorted(found, key=lambda text: text_hash("retrieval", text))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Do something and return what came of it, and the seconds it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def quantile(values: list[float], share: float) -> float:
    """Return the value below which that share of the values lies."""
    return round(sorted(values)[round(share * (len(values) - 1))], 2)


def measure(name: str, documents: list[Any], changed: list[Any], questions: list[str]) -> dict[str, Any]:
    """Build, save, load, ask and update one index."""
    from tunesmith.retrieval.index import Index

    index, building = timed(lambda: Index.build(documents, name))
    with tempfile.TemporaryDirectory() as folder:
        _, saving = timed(lambda: index.save(Path(folder) / "index"))
        loaded, loading = timed(lambda: Index.load(Path(folder) / "index"))
        megabytes = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 1e6
    loaded.search(questions[:1])
    # On a machine that is shared, processor time says what a question costs, and wall time what else was going on.
    busy, times = [], []
    for question in questions:
        start = time.process_time()
        times.append(1000 * timed(lambda q=question: loaded.search([q], 5))[1])
        busy.append(1000 * (time.process_time() - start))
    _, updating = timed(lambda: Index.build(changed, name, before=loaded))
    return {
        "build_seconds": round(building, 2), "save_seconds": round(saving, 2), "load_seconds": round(loading, 2),
        "disk_mb": round(megabytes, 1), "p50_ms": quantile(times, 0.5), "p95_ms": quantile(times, 0.95),
        "processor_p50_ms": quantile(busy, 0.5), "processor_p95_ms": quantile(busy, 0.95),
        f"update_seconds_{CHANGED}_changed": round(updating, 2),
    }  # fmt: skip


def main() -> None:
    """Measure every retriever and write down what came of it."""
    import torch

    from tunesmith.core.registry import RETRIEVERS
    from tunesmith.models.embed import embed_texts
    from tunesmith.retrieval.chunk import Document

    if len(sys.argv) > 1:
        torch.set_num_threads(int(sys.argv[1]))
    found = texts()
    documents = [Document(str(i), "", text, str(i)) for i, text in enumerate(found[:PASSAGES])]
    changed = [*documents[CHANGED:], *(Document(f"new {i}", "", f"{text} Indeed.", "") for i, text in enumerate(found[:CHANGED]))]
    embed_texts(["loaded once, before anything is timed"])
    results = {}
    for name in RETRIEVERS.names():
        results[name] = measure(name, documents, changed, found[PASSAGES : PASSAGES + QUESTIONS])
        print(name, results[name])
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE).stdout.strip()
    words = statistics.fmean(len(d.text.split()) for d in documents)
    record = {
        "command": " ".join(["python", "benchmarks/retrieval/run.py", *sys.argv[1:]]), "commit": commit,
        "passages": PASSAGES, "mean_words": round(words, 1), "questions": QUESTIONS, "threads": torch.get_num_threads(),
        "hardware": {"cores": os.cpu_count(), "machine": platform.machine(), "load_before": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), "torch": torch.__version__}, "retrievers": results,
    }  # fmt: skip
    (HERE / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
