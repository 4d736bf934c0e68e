"""Find the passages of an index that have most to do with a question."""

from __future__ import annotations

import math
import textwrap
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.errors import UserError

POSITIONAL = ("index", "question")
EXAMPLES = (
    'tunesmith retrieve runs/handbook "How long is the probation period?"',
    'tunesmith retrieve runs/handbook "probation" --k 3 --json',
)


class Config(BaseConfig):
    """Settings of `tunesmith retrieve`."""

    index: str
    """directory that `tunesmith index` made"""
    question: str
    """what to look for"""
    k: int = Field(5, ge=1, le=1000)
    """at most this many passages"""
    threads: int | None = None
    """processor threads; absent = all"""


def run(config: Config) -> dict[str, Any]:
    """Search the index.

    Raises:
        UserError: no index, a damaged one, one made with another encoder, or an empty question.
    """
    from tunesmith.recipes._models import quiet_libraries, use_threads
    from tunesmith.retrieval.index import Index

    if not config.question.strip():
        raise UserError("the question is empty")
    quiet_libraries()
    use_threads(config.threads)
    index = Index.load(Path(config.index))
    # The first search also opens the index and the encoder, which is no part of a search.
    index.search([config.question], config.k)
    start = time.perf_counter()
    hits = index.search([config.question], config.k)[0]
    milliseconds = 1000 * (time.perf_counter() - start)
    found = [
        {
            "passage": hit.passage.id, "score": hit.score, "p": p, "document": hit.passage.document, "title": hit.passage.title,
            "start": hit.passage.start, "end": hit.passage.end, "text": hit.passage.text,
        }
        for hit, p in zip(hits, map(math.exp, index.log_prior(hits)), strict=True)
    ]  # fmt: skip
    return {
        "status": "done", "index": config.index, "question": config.question, "retriever": index.retriever["name"],
        "hits": found, "milliseconds": milliseconds,
    }  # fmt: skip


def render(report: dict[str, Any]) -> str:
    """Return the passages with what an answer would cite."""
    if not report["hits"]:
        return "nothing found: no passage has a word of the question"
    pieces = []
    for number, hit in enumerate(report["hits"], 1):
        head = f"{number}. {hit['passage']}" + (f"  {hit['title']}" if hit["title"] else "") + f"  (score {hit['score']:.4g})"
        pieces.append(head + "\n" + textwrap.fill(hit["text"], 80, initial_indent="   ", subsequent_indent="   "))
    return "\n".join([*pieces, f"{report['milliseconds']:.1f} ms"])
