"""The human-rated sources: every snippet, what people said of it, and splits that share no document."""

from collections import Counter

import pytest

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.core.registry import SOURCES
from tunesmith.data.sources import _hutto

# Rows as published (Hutto & Gilbert 2014), clear ones, and the sizes of the splits.
COUNTS = {"hutto-movies": 10_605, "hutto-tweets": 4_200, "hutto-products": 3_708, "hutto-editorials": 5_190}


def document(example: Example) -> str:
    """The review, product or editorial a sentence comes from: the identity's part before "_"."""
    return example.where.split(":")[1].split("_")[0]


@pytest.mark.parametrize("name", COUNTS)
def test_every_published_row_is_there_with_its_ratings(name: str) -> None:
    rows = _hutto.rated(SOURCES.get(name).KIND)
    assert len(rows) == len({row.id for row in rows}) == COUNTS[name]
    for row in rows:
        fields = row.fields
        assert fields["text"]
        assert fields["text"] == " ".join(fields["text"].split())
        assert len(fields["ratings"]) >= (15 if name == "hutto-movies" else 20)
        assert all(-4 <= rating <= 4 for rating in fields["ratings"])
        if len(fields["ratings"]) < 30:  # the mean of tweets that a hundred people rated is of a part of them
            assert fields["mean"] == pytest.approx(sum(fields["ratings"]) / len(fields["ratings"]), abs=0.06)
        assert fields["label"] == ("positive" if fields["mean"] >= 0.5 else "negative" if fields["mean"] <= -0.5 else "neutral")


@pytest.mark.parametrize("name", COUNTS)
def test_splits_share_no_document_and_no_text(name: str) -> None:
    source = SOURCES.get(name)
    splits = source.splits()
    assert list(splits) == ["train", "validation", "test"]
    for of in (lambda e: e.id, document, lambda e: e.fields["text"].casefold()):
        parts = [{of(e) for e in part} for part in splits.values()]
        assert sum(map(len, parts)) == len(set.union(*parts))
    texts = [e.fields["text"].casefold() for part in splits.values() for e in part]
    assert len(texts) == len(set(texts))
    clear = {e.fields["text"].casefold() for e in _hutto.rated(source.KIND) if e.fields["label"] != "neutral"}
    assert set(texts) == clear
    shares = [len(part) / len(texts) for part in splits.values()]
    assert shares == pytest.approx([0.75, 0.05, 0.20], abs=0.06)
    assert all(set(Counter(e.fields["label"] for e in part)) == {"positive", "negative"} for part in splits.values())
    assert (source.LICENCE, "Hutto" in source.CITATION) == ("MIT", True)


def test_splits_are_the_same_every_time_and_not_sorted_by_label() -> None:
    first, again = (SOURCES.get("hutto-movies").splits() for _ in range(2))
    assert first == again
    assert len(first["test"]) >= 1000
    assert {e.fields["label"] for e in first["test"][:10]} == {"positive", "negative"}
    # Written down, so that results of different versions stay comparable.
    assert {name: len(part) for name, part in first.items()} == {"train": 7563, "validation": 546, "test": 1961}


@pytest.mark.parametrize(("name", "documents"), [("hutto-products", 300), ("hutto-editorials", 498)])
def test_documents_have_many_sentences_so_a_split_by_sentences_would_share_them(name: str, documents: int) -> None:
    rows = _hutto.rated(SOURCES.get(name).KIND)
    assert len({document(row) for row in rows}) == documents
    by_sentence = [
        {document(row) for row in rows if int(row.id, 16) % 5 == 0},
        {document(row) for row in rows if int(row.id, 16) % 5},
    ]
    assert by_sentence[0] & by_sentence[1]


def test_letters_beyond_ascii_are_read_as_they_were_written() -> None:
    texts = " ".join(row.fields["text"] for kind in ("movieReviewSnippets", "tweets") for row in _hutto.rated(kind))
    for word in ("clichés", "Jirí Hubac's", "Münch's", "£1000", "español"):
        assert word in texts
    assert "Ã" not in texts


def test_an_unknown_source_has_a_near_miss() -> None:
    with pytest.raises(UserError, match="Did you mean 'hutto-movies'"):
        SOURCES.get("movies")
