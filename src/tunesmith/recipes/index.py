"""Index a corpus for retrieval; run again, it embeds only what changed.

`tunesmith retrieve` asks the index, and the route `retrieval` takes it as its corpus.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.errors import UserError
from tunesmith.retrieval.chunk import Chunking

POSITIONAL = "corpus"
EXAMPLES = (
    "tunesmith index handbook/ --run_dir runs/handbook",
    "tunesmith index faq.csv --retriever bm25 --chunk.words 60",
    "tunesmith index task:movies",
)


class Config(BaseConfig):
    """Settings of `tunesmith index`."""

    corpus: str
    """a file of rows (id, title, text), a text or Markdown file, a folder of such files, or task:NAME for its training rows"""
    retriever: str = "hybrid"
    """bm25, dense or hybrid; bm25:k1=1.5,b=0.5 sets a retriever's own parameters"""
    chunk: Chunking = Chunking()
    """how documents are cut into passages"""
    run_dir: str | None = None
    """where the index goes; absent = runs/index-CORPUS"""
    overwrite: bool = False
    """replace an index that has other settings or is damaged"""
    skip_bad_rows: bool = False
    """go on without rows that cannot be used"""
    threads: int | None = None
    """processor threads; absent = all"""


def run(config: Config) -> dict[str, Any]:
    """Index the corpus, reusing what an index in the same place already has.

    Raises:
        UserError: no such corpus, an empty one, or a place with an index of other settings.
        WorkFailed: the index cannot be written.
    """
    from tunesmith.core.registry import RETRIEVERS
    from tunesmith.recipes._child import alone
    from tunesmith.recipes._models import quiet_libraries, use_threads
    from tunesmith.retrieval.corpus import read_corpus
    from tunesmith.retrieval.index import Index

    start = time.perf_counter()
    entry, parameters = RETRIEVERS.parameters(config.retriever)
    settings = {"name": entry.__name__.rpartition(".")[2], **parameters.model_dump()}
    name = re.sub(r"[^\w.-]+", "-", Path(config.corpus).name or "corpus").strip(".-")
    folder = Path(config.run_dir or f"runs/index-{name}")
    quiet_libraries()
    use_threads(config.threads)
    with alone(folder):
        before = _before(config, folder, settings)
        index = Index.build(read_corpus(config.corpus, skip_bad_rows=config.skip_bad_rows), settings, config.chunk, before)
        index.save(folder)
    known = {p.shown for p in before.passages} if before else set()
    return {
        "status": "done", "run_dir": str(folder), "retriever": index.retriever, "documents": index.documents,
        "passages": len(index.passages), "new_passages": sum(p.shown not in known for p in index.passages),
        "seconds": time.perf_counter() - start, "warnings": _warnings(index),
    }  # fmt: skip


def _before(config: Config, folder: Path, settings: dict[str, Any]) -> Any:
    """Return the index that is there, or None; one with other settings is not continued."""
    from tunesmith.retrieval.index import Index, is_index

    if config.overwrite or not is_index(folder):
        return None
    before = Index.load(folder)
    wanted = {**settings, **config.chunk.model_dump()}
    there = {**before.retriever, **before.chunking.model_dump()}
    if other := [key for key in wanted | there if wanted.get(key) != there.get(key)]:
        key = "retriever" if other[0] == "name" else other[0]
        change = f"{key} was {there.get(other[0])}, now {wanted.get(other[0])}"
        raise UserError(f"{folder} holds an index with other settings ({change})", "Choose another --run_dir, or --overwrite.")
    return before


def _warnings(index: Any) -> list[str]:
    found = [f"{index.blank:,} documents without a word have no passage"] if index.blank else []
    if index.cut:
        found.append(f"{index.cut:,} passages have over 256 tokens and are embedded by the first 256: use fewer --chunk.words")
    return found


def render(report: dict[str, Any]) -> str:
    """Return what was indexed, and how to ask it."""
    counts = f"{report['passages']:,} passages of {report['documents']:,} documents, {report['new_passages']:,} of them new"
    notes = "".join(f"\nnote: {warning}" for warning in report["warnings"])
    return f'{counts}, in {report["seconds"]:.1f} s{notes}\nAsk it: tunesmith retrieve {report["run_dir"]} "your question"'
