"""Chunking: a document becomes passages of a bounded number of words, each of which knows where it stands.

Lewis et al. 2020 cut Wikipedia into disjoint pieces of 100 words; here a piece also ends with a sentence where it can.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, model_validator

from tunesmith.core.config import Config

# A run of signs without a space is cut into words of at most this many: not every language puts spaces between words.
_WORD = re.compile(r"\S{1,40}")
_SENTENCE_END = re.compile(r"[.!?。！？…][\"'”’»)\]]*$")


class Chunking(Config):
    """How documents are cut into passages."""

    words: int = Field(default=100, ge=1, le=1000)
    """most words of a passage"""
    overlap: int = Field(default=0, ge=0)
    """a passage repeats at most this many words of the one before, whole sentences of them where `by` is sentences"""
    by: Literal["sentences", "words"] = "sentences"
    """where a passage may end; a sentence longer than a passage is cut between words"""

    @model_validator(mode="after")
    def _advances(self) -> Chunking:
        if self.overlap >= self.words:
            raise ValueError("overlap must be smaller than words")
        return self


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus.

    Attributes:
        id: unique in its corpus. title: "" where it has none. where: its file and line, for messages.
        whole: never cut it (a row with its answer).
    """

    id: str
    title: str
    text: str
    where: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document: `text` is the document's characters `start` to `end` (exclusive) and is never blank."""

    document: str
    start: int
    end: int
    title: str
    text: str

    @property
    def id(self) -> str:
        """What answers cite."""
        return f"{self.document}#{self.start}-{self.end}"

    @property
    def shown(self) -> str:
        """What a retriever indexes and a model reads: the title, if there is one, and the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def passages(document: Document, chunking: Chunking) -> list[Passage]:
    """Cut a document; white space around a passage belongs to none, and a blank document has no passage."""
    words = [match.span() for match in _WORD.finditer(document.text)]
    if document.whole:
        spans = [(words[0][0], words[-1][1])] if words else []
    else:
        ranges = _packed(_pieces(document.text, words, chunking), chunking)
        spans = [(words[first][0], words[last - 1][1]) for first, last in ranges]
    return [Passage(document.id, start, end, document.title, document.text[start:end]) for start, end in spans]


def _pieces(text: str, words: list[tuple[int, int]], chunking: Chunking) -> list[tuple[int, int]]:
    """Return what a passage is packed from as ranges of word numbers: single words, or sentences of at most `words` words."""
    if chunking.by == "words":
        return [(i, i + 1) for i in range(len(words))]
    pieces, first = [], 0
    for i, (start, end) in enumerate(words):
        last = i + 1 == len(words)
        blank = not last and text.count("\n", end, words[i + 1][0]) > 1
        # A heading belongs to what it stands above.
        apart = blank and text[words[first][0]] != "#"
        ends = last or apart or _SENTENCE_END.search(text[start:end]) is not None
        if ends or i + 1 - first == chunking.words:
            pieces.append((first, i + 1))
            first = i + 1
    return pieces


def _packed(pieces: list[tuple[int, int]], chunking: Chunking) -> Iterator[tuple[int, int]]:
    """Yield ranges of word numbers, as many pieces each as fit; every range holds a piece that none before it held."""
    first, end = 0, 0
    while end < len(pieces):
        while end < len(pieces) and pieces[end][1] - pieces[first][0] <= chunking.words:
            end += 1
        yield pieces[first][0], pieces[end - 1][1]
        if end == len(pieces):
            return
        first, done = end, pieces[end - 1][1]
        while done - pieces[first - 1][0] <= chunking.overlap and pieces[end][1] - pieces[first - 1][0] <= chunking.words:
            first -= 1
