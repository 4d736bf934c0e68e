"""Retrieval: passages found for an item are read before it is answered, and the answer cites them (Lewis et al. 2020, RAG)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from tunesmith.core.config import Config
from tunesmith.core.records import Example
from tunesmith.core.registry import RETRIEVERS
from tunesmith.recipes._ladder.workload import Sizes, Workload

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop
    from tunesmith.retrieval.index import Hit, Index

KIND = "prompt"


class Parameters(Config):
    """What retrieval can be told."""

    corpus: str = ""
    """file or folder of documents, index directory, or task:NAME; absent = the task's own training rows with their answers"""
    retriever: str | dict[str, Any] = "hybrid"
    """bm25, dense or hybrid; {name: bm25, k1: 1.5} sets a retriever's own parameters"""
    k: int = Field(5, ge=1, le=100)
    """passages retrieved for an item"""
    combine: Literal["stuff", "sequence", "token"] = "stuff"
    """all passages in one prompt, or one prompt a passage and the answers mixed: RAG-Sequence, RAG-Token"""
    words: int = Field(100, ge=1, le=1000)
    """most words of a passage; rows of a task are never cut"""
    overlap: int = Field(0, ge=0)
    """words that a passage may repeat of the one before"""
    relevant: str = ""
    """field of the rows with the id (or ids) of the document that answers it; absent = recall counts passages with the answer"""

    @field_validator("retriever")
    @classmethod
    def _exists(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        RETRIEVERS.parameters(value)
        return value


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    name = parameters.retriever if isinstance(parameters.retriever, str) else parameters.retriever.get("name", "")
    parts = [part for part in (name, parameters.combine) if part not in ("hybrid", "stuff")]
    return " ".join(["retrieval", *parts, f"k={parameters.k}"])


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return ""


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: every item has passages of its own."""
    prompts = parameters.k + 1 if parameters.combine == "stuff" else 2 * parameters.k
    return Workload(forward_tokens=sizes.items * sizes.prompt_tokens * prompts, seconds=15.0)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Index the corpus, find passages for every item, and ask it after them."""
    from tunesmith.evaluate.answer import shown_text, single_query_ms
    from tunesmith.evaluate.grounded import Evidence, GroundedAsker
    from tunesmith.recipes._ladder.climb import Climbed

    start = time.perf_counter()
    index = _index(shop, parameters)
    built = time.perf_counter() - start

    def find(items: Sequence[Example]) -> list[list[Hit]]:
        return index.search([shown_text(shop.task, item) for item in items], parameters.k)

    def evidence(found: Sequence[Sequence[Hit]]) -> list[Evidence]:
        return [Evidence(tuple(hit.passage for hit in hits), tuple(index.log_prior(hits))) for hits in found]

    asker = GroundedAsker(shop.asker(), parameters.combine)
    searching = single_query_ms(lambda item: find([item]), shop.items)
    latency = single_query_ms(lambda item: asker.ask([item], evidence(find([item]))), shop.items)
    start = time.perf_counter()
    found = find(shop.items)
    answers, dropped = asker.ask(shop.items, evidence(found), label(parameters))
    seconds = time.perf_counter() - start
    measures, recall = _recall(shop, parameters, found)
    notes = [
        f"index of {len(index.passages):,} passages of {index.documents:,} documents, built in {built:.1f} s; "
        f"a search takes {searching[0]:.1f} ms (95 %: {searching[1]:.1f})",
        recall, *_oddities(index, found, dropped),
    ]  # fmt: skip
    return Climbed([answers.predictions], seconds, answers.prompt_tokens, latency, seconds=built, notes=notes, measures=measures)


def _index(shop: Workshop, parameters: Parameters) -> Index:
    """Load the index that was named, or build one and leave it beside the result, so that what is cited can be looked up."""
    from tunesmith.retrieval.chunk import Chunking
    from tunesmith.retrieval.corpus import read_corpus, rows_as_documents
    from tunesmith.retrieval.index import Index, is_index

    if parameters.corpus and is_index(Path(parameters.corpus)):
        return _agreed(Index.load(Path(parameters.corpus)), parameters)
    own = not parameters.corpus
    documents = rows_as_documents(shop.task, shop.train) if own else read_corpus(parameters.corpus)
    index = Index.build(documents, parameters.retriever, Chunking(words=parameters.words, overlap=parameters.overlap))
    index.save(shop.folder / "index")
    return index


def _agreed(index: Index, parameters: Parameters) -> Index:
    """Return the index if it was made as the parameters say; those that were not given are the index's own."""
    from tunesmith.core.errors import UserError

    entry, own = RETRIEVERS.parameters(parameters.retriever)
    wanted = {"name": entry.__name__.rpartition(".")[2], **own.model_dump(exclude_unset=True)}
    wanted |= parameters.model_dump(include={"words", "overlap"} & parameters.model_fields_set)
    there = {**index.retriever, **index.chunking.model_dump()}
    for key in wanted:
        if wanted[key] != there[key]:
            known = "retriever" if key == "name" else key
            change = f"{known} {there[key]}, and the route says {wanted[key]}"
            raise UserError(f"the index {parameters.corpus} was made with {change}", f"Give the route {known}={there[key]}.")
    return index


def _recall(shop: Workshop, parameters: Parameters, found: Sequence[Sequence[Hit]]) -> tuple[dict[str, float], str]:
    """Return recall@k by its name, and a sentence: what retrieval found, whatever the model made of it."""
    from tunesmith.retrieval.rag import recall_at_k

    k, task = parameters.k, shop.task
    if field := parameters.relevant:
        named = [_named(item, field) for item in shop.items]
        values = [recall_at_k(w, [h.passage.document for h in hits], k) for w, hits in zip(named, found, strict=True)]
        name, meaning = f"recall@{k}", f"of the documents named in '{field}'"
    else:
        # Rows of the task itself are known by their labels, which may be the beginning of one another.
        labels = {} if parameters.corpus or not task.verbalizer else {row.id: task.gold(row) for row in shop.train}
        answers = [(task.gold(item), task.answer(item)) for item in shop.items]
        values = [
            any(labels[p.document] == gold if labels else _holds(p.shown, said) for p in (hit.passage for hit in hits))
            for (gold, said), hits in zip(answers, found, strict=True)
        ]
        name, meaning = f"answer_recall@{k}", "items with the right answer in a retrieved passage"
    value = sum(values) / len(values)
    return {name: value}, f"{name.replace('_', ' ')}, {meaning}: {value:.1%}"


def _named(item: Example, field: str) -> list[str]:
    """Return the ids of the documents that an item names as those that answer it."""
    from tunesmith.core.errors import UserError

    value = item.fields.get(field)
    ids = [str(one) for one in (value if isinstance(value, (list, tuple)) else [value]) if one not in (None, "")]
    if not ids:
        raise UserError(f"{item.where}: '{field}' should name the document that answers it, and is empty or missing")
    return ids


def _holds(passage: str, answer: str) -> bool:
    """Whether the words of an answer stand in a passage, one after another, whatever their case and punctuation."""
    from tunesmith.retrieval.retrievers.bm25 import words

    wanted = words(answer)
    return bool(wanted) and f" {' '.join(wanted)} " in f" {' '.join(words(passage))} "


def _oddities(index: Index, found: Sequence[Sequence[Hit]], dropped: int) -> list[str]:
    """Say what was left out, and how much of it."""
    total, without = sum(map(len, found)), sum(not hits for hits in found)
    counts: list[tuple[int, Callable[[int], str]]] = [
        (dropped, lambda n: f"{n:,} of {total:,} passages left out where item and passages exceed the model's context"),
        (without, lambda n: f"{n:,} items have nothing in common with any passage and were asked without"),
        (index.blank, lambda n: f"{n:,} documents without a word have no passage"),
        (index.cut, lambda n: f"{n:,} passages are longer than 256 tokens and were embedded by their first 256"),
    ]
    return [sentence(count) for count, sentence in counts if count]
