"""An index of passages: built from documents, brought up to date by embedding only what changed, and kept on disk whole.

A saved index is a folder with one generation in it, `index-NNNNNNNN/`: passages.jsonl, arrays.safetensors, index.json (how it
was made) and MANIFEST.json (sizes and SHA-256, verified at loading). A new generation is staged, flushed, read back and
renamed before the old one goes, so a save that is killed anywhere leaves a whole index.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.files import sync_directory, verify_manifest, write_checked, write_manifest
from tunesmith.core.registry import RETRIEVERS
from tunesmith.retrieval.chunk import Chunking, Document, Passage, passages

_QUERIES_AT_ONCE = 64
_AGAIN = "Build it again: tunesmith index CORPUS --overwrite --run_dir {}."


@dataclass(frozen=True)
class Hit:
    """A passage found for a query, and its score by the index's retriever."""

    passage: Passage
    score: float


@dataclass(frozen=True)
class Index:
    """Passages and what a retriever keeps of them.

    Attributes:
        retriever: its name and parameters. encoder: identity of the model whose vectors are kept, "" without one.
        documents: how many there were. blank: how many of them had no word, and so no passage.
        cut: passages that are longer than what the encoder reads. arrays: what the retriever keeps.
    """

    passages: tuple[Passage, ...]
    retriever: dict[str, Any]
    chunking: Chunking
    encoder: str
    documents: int
    blank: int
    cut: int
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def build(
        cls, documents: Sequence[Document], retriever: str | Mapping[str, Any] = "hybrid", chunking: Chunking | None = None,
        before: Index | None = None,
    ) -> Index:  # fmt: skip
        """Index documents.

        Args:
            retriever: name, or name and parameters.
            before: an earlier index; what it has embedded with the same encoder is not embedded again. The result is the same.

        Raises:
            UserError: no document has a word, two have one id, or the retriever or its parameters do not exist.
        """
        entry, parameters = RETRIEVERS.parameters(retriever)
        chunking, encoder = chunking or Chunking(), entry.encoder()
        if len({document.id for document in documents}) < len(documents):
            _refuse_twins(documents)
        cut = [passages(document, chunking) for document in documents]
        found = tuple(passage for of in cut for passage in of)
        if not found:
            why = f"its {len(documents):,} documents are blank" if documents else "it has no document"
            raise UserError(f"the corpus is empty: {why}")
        texts = [passage.shown for passage in found]
        known = before._vectors if before and before.encoder == encoder else None
        settings = {"name": entry.__name__.rpartition(".")[2], **parameters.model_dump()}
        return cls(
            passages=found, retriever=settings, chunking=chunking, encoder=encoder,
            documents=len(documents), blank=sum(not of for of in cut), cut=_count_cut(texts) if encoder else 0,
            arrays=entry.build(texts, parameters, known),
        )  # fmt: skip

    def search(self, queries: Sequence[str], k: int = 5) -> list[list[Hit]]:
        """Return per query its best k passages, best first; fewer where fewer have anything to do with it.

        Of passages with equal scores, those that stand first in the corpus are taken.
        """
        entry, find = self._open
        found: list[list[Hit]] = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            for scores in find(queries[start : start + _QUERIES_AT_ONCE]):
                found.append([Hit(self.passages[i], float(scores[i])) for i in _best(scores, k) if scores[i] > entry.UNRELATED])
        return found

    def log_prior(self, hits: Sequence[Hit]) -> list[float]:
        """Return log p(z|x) of the hits of one query, normalised over them and not over the corpus (Lewis et al. 2020)."""
        if not hits:
            return []
        weights = self._open[0].log_weights(np.array([hit.score for hit in hits], dtype=np.float64))
        return [float(value) for value in weights - np.logaddexp.reduce(weights)]

    @property
    def _vectors(self) -> dict[str, np.ndarray]:
        """The vector of each text, of a retriever that keeps vectors."""
        texts = [passage.shown for passage in self.passages]
        kept = [values for key, values in self.arrays.items() if key.rpartition(".")[2] == "vectors"]
        return {text: vector for values in kept for text, vector in zip(texts, values, strict=True)}

    @cached_property
    def _open(self) -> tuple[Any, Callable[[Sequence[str]], np.ndarray]]:
        entry, parameters = RETRIEVERS.parameters(self.retriever)
        return entry, entry.searcher(dict(self.arrays), parameters)

    def save(self, folder: Path) -> None:
        """Write the index; killed half-way or out of room, the folder still has the index it had.

        Raises:
            UserError: the folder holds something else.
            WorkFailed: it cannot be written.
        """
        from safetensors.numpy import save

        older = _generations(folder)
        if not older and folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no index", "Choose another --run_dir.")
        number = int(older[-1].name.rpartition("-")[2]) + 1 if older else 1
        stage, final = folder / f".index-{number:08}.tmp-{os.getpid()}", folder / f"index-{number:08}"
        about = {key: getattr(self, key) for key in ("retriever", "encoder", "documents", "blank", "cut")}
        contents = {
            "passages.jsonl": "".join(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in self.passages).encode(),
            "index.json": json.dumps({**about, "chunking": self.chunking.model_dump()}, indent=2).encode(),
            "arrays.safetensors": save({name: np.ascontiguousarray(values) for name, values in self.arrays.items()}),
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for orphan in folder.glob(".index-*.tmp-*"):
                shutil.rmtree(orphan, ignore_errors=True)
            stage.mkdir()
            write_manifest(stage, known={name: write_checked(stage / name, [data]) for name, data in contents.items()})
            os.replace(stage, final)
            sync_directory(folder)
        except (OSError, WorkFailed) as error:
            # After the rename, too: what is said to be missing must not turn up later.
            shutil.rmtree(stage, ignore_errors=True)
            shutil.rmtree(final, ignore_errors=True)
            why = error.message if isinstance(error, WorkFailed) else str(error)
            raise WorkFailed(f"the index could not be written to {folder}: {why}", "What was there is as it was.") from error
        for path in older:
            shutil.rmtree(path, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> Index:
        """Read what `save` wrote and verify it.

        Raises:
            UserError: there is no index, it is damaged, or its vectors were made by another encoder than the one that
                would embed the queries.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        again = _AGAIN.format(folder)
        if not (generations := _generations(folder)):
            raise UserError(f"there is no index in {folder}", "Make one: tunesmith index CORPUS --run_dir DIR.")
        newest = generations[-1]
        if problem := verify_manifest(newest):
            raise UserError(f"the index in {folder} is damaged: {problem}", again)
        try:
            about = json.loads((newest / "index.json").read_text(encoding="utf-8"))
            lines = (newest / "passages.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
            found = tuple(Passage(**json.loads(line)) for line in lines)
            arrays = load_file(newest / "arrays.safetensors")
            index = cls(passages=found, arrays=arrays, **{**about, "chunking": Chunking(**about["chunking"])})
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise UserError(f"the index in {folder} cannot be read: {error}", again) from error
        encoder = RETRIEVERS.get(index.retriever["name"]).encoder()
        if encoder != index.encoder:
            raise UserError(f"the index in {folder} was made with the encoder '{index.encoder}', and this is '{encoder}'", again)
        return index


def is_index(folder: Path) -> bool:
    """Whether a folder holds a saved index."""
    return bool(_generations(folder))


def _generations(folder: Path) -> list[Path]:
    return sorted(folder.glob("index-" + "[0-9]" * 8))


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the places of the k highest scores [N], highest first, earlier places first among equals."""
    k = min(k, len(scores))
    places = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
    return places[np.argsort(-scores[places], kind="stable")][:k]


def _refuse_twins(documents: Sequence[Document]) -> None:
    seen: dict[str, str] = {}
    for document in documents:
        if document.id in seen:
            raise UserError(
                f"{document.where}: the id '{document.id}' also stands at {seen[document.id]}",
                "Answers cite documents by their id: give each its own, or leave the column out.",
            )
        seen[document.id] = document.where


def _count_cut(texts: Sequence[str]) -> int:
    from tunesmith.models.embed import count_cut

    return count_cut(texts)
