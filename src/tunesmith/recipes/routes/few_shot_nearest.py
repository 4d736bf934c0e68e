"""Few-shot with rows chosen for each item: the nearest by meaning or words (Liu et al. 2022), or near and diverse ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tunesmith.core.config import Config
from tunesmith.core.records import Example
from tunesmith.core.registry import DEMONSTRATIONS, RETRIEVERS
from tunesmith.recipes._ladder.workload import Sizes, Workload
from tunesmith.recipes._routes.prompting import Templates, ask_draws, in_blocks

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

KIND = "prompt"


class Parameters(Config):
    """What retrieval-chosen demonstrations can be told."""

    shots: int = Field(4, ge=1)
    """demonstrations before an item"""
    choice: Literal["nearest", "diverse"] = "nearest"
    """the most similar training rows, or similar ones that are unlike each other (maximal marginal relevance)"""
    by: Literal["meaning", "words"] = "meaning"
    """similar = a MiniLM embedding in the same direction, or rare words in common (BM25; needs the package bm25s)"""
    order: Literal["nearest_last", "blocks"] = "nearest_last"
    """the most similar next to the item, or label by label"""
    templates: Templates = "first"
    """the task's first template, or all of them, reported with their spread"""
    drop_shots: bool = True
    """leave out the first demonstrations of a prompt that would not fit the model; no = it is an error"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    others = ["BM25"] if parameters.by == "words" else []
    others += ["in blocks"] if parameters.order == "blocks" else []
    others += ["all templates"] if parameters.templates == "all" else []
    return " ".join([f"{parameters.shots}-shot {parameters.choice}", *others])


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: every item has demonstrations of its own."""
    return Workload(forward_tokens=sizes.items * sizes.prompt_tokens * (parameters.shots + 1), seconds=10.0)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Compare training rows and items, then ask every item after the rows chosen for it."""
    start = time.perf_counter()
    chosen = DEMONSTRATIONS.get(parameters.choice).choose(
        shop.train, shop.items, parameters.shots, shop.seed, label_of=shop.task.gold, similar=_similar(shop, parameters.by)
    )
    if parameters.order == "blocks":
        chosen = [in_blocks(rows, shop.task.gold) for rows in chosen]
    return ask_draws(shop, label(parameters), [chosen], time.perf_counter() - start, parameters.templates, parameters.drop_shots)


def _similar(shop: Workshop, by: str) -> Callable[[Sequence[Example], Sequence[Example]], Any]:
    """Return what compares rows: [Q rows, N training rows or items] scores; every row is read once."""
    import numpy as np

    rows = {row.id: row for row in (*shop.train, *shop.items)}
    at = {name: number for number, name in enumerate(rows)}

    def places(some: Sequence[Example]) -> Any:
        return np.array([at[row.id] for row in some])

    if by == "meaning":
        from tunesmith.models.embed import embed_texts

        vectors = embed_texts([shop.task.template.prompt(row.fields) for row in rows.values()], "embedding")
        return lambda these, those: vectors[places(these)] @ vectors[places(those)].T
    bm25 = RETRIEVERS.get("bm25")
    # How rare a word is follows from the training rows alone; the words every prompt has would only be in the way.
    train = {row.id: number for number, row in enumerate(shop.train)}
    texts = [" ".join(str(row.fields[name]) for name in shop.task.template.fields) for row in rows.values()]
    search = bm25.searcher(bm25.build([texts[at[row.id]] for row in shop.train], bm25.Parameters()), bm25.Parameters())
    return lambda these, those: search([texts[i] for i in places(these)])[:, [train[row.id] for row in those]]
