"""Passages are bounded, never blank, together hold every word, and know where they stand."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tunesmith.retrieval.chunk import Chunking, Document, passages

WORDS = st.text(alphabet="ab é。.!\n\t #", max_size=300)


def cut(text: str, whole: bool = False, **how: object) -> list[str]:
    """The texts of a document's passages."""
    return [p.text for p in passages(Document("d", "", text, "d", whole), Chunking.model_validate(how))]


@given(WORDS, st.integers(1, 8), st.integers(0, 7), st.sampled_from(["words", "sentences"]))
def test_every_word_is_in_a_passage_of_its_place(text: str, words: int, overlap: int, by: str) -> None:
    how = Chunking.model_validate({"words": words, "overlap": min(overlap, words - 1), "by": by})
    found = passages(Document("d", "T", text, "d"), how)
    covered: set[int] = set()
    for p in found:
        assert p.text == text[p.start : p.end]
        assert p.text == p.text.strip() != ""
        assert len(p.text.split()) <= words
        covered |= set(range(p.start, p.end))
    assert {i for i, sign in enumerate(text) if not sign.isspace()} <= covered
    assert [p.start for p in found] == sorted({p.start for p in found})
    assert [p.end for p in found] == sorted({p.end for p in found})
    for one, other in pairwise(found):
        assert len(text[other.start : one.end].split()) <= how.overlap


def test_sentences_stay_whole_where_they_fit() -> None:
    text = "One two three. Four five? Six seven eight nine. Ten."
    assert cut(text, words=5) == ["One two three. Four five?", "Six seven eight nine. Ten."]
    assert cut(text, words=5, by="words") == ["One two three. Four five?", "Six seven eight nine. Ten."]
    assert cut(text, words=4) == ["One two three.", "Four five?", "Six seven eight nine.", "Ten."]
    assert cut(text, words=4, by="words") == ["One two three. Four", "five? Six seven eight", "nine. Ten."]
    assert cut(text, words=3) == ["One two three.", "Four five?", "Six seven eight", "nine. Ten."]


def test_overlap_repeats_words_or_whole_sentences() -> None:
    assert cut("a b c d e f g", words=4, overlap=1, by="words") == ["a b c d", "d e f g"]
    assert cut("a b c d e f g", words=4, overlap=2, by="words") == ["a b c d", "c d e f", "e f g"]
    assert cut("One two. Three four. Five six.", words=4, overlap=2) == ["One two. Three four.", "Three four. Five six."]
    # A sentence of two words is more than the one that may be repeated.
    assert cut("One two. Three four. Five six.", words=4, overlap=1) == ["One two. Three four.", "Five six."]


def test_a_heading_stands_with_what_follows() -> None:
    text = "# Leave\n\nThirty days. Ask early.\n\n# Pay\n\nMonthly.\n\na list\n\nwithout stops"
    assert cut(text, words=6) == ["# Leave\n\nThirty days. Ask early.", "# Pay\n\nMonthly.\n\na list", "without stops"]


def test_text_without_spaces_is_cut_all_the_same() -> None:
    pieces = cut("字" * 100, words=1)
    assert [len(p) for p in pieces] == [40, 40, 20]


def test_rows_are_never_cut_and_blank_documents_have_no_passage() -> None:
    assert cut("  one two three four \n", whole=True, words=2) == ["one two three four"]
    assert cut(" \n\t ") == cut("", whole=True) == []


def test_a_passage_is_cited_by_document_and_place() -> None:
    found = passages(Document("a.md", "Leave", "Thirty days. Ask.", "a.md"), Chunking(words=2))
    assert [p.id for p in found] == ["a.md#0-12", "a.md#13-17"]
    assert found[0].shown == "Leave\nThirty days."


def test_an_overlap_as_long_as_a_passage_is_refused() -> None:
    with pytest.raises(ValidationError, match="overlap must be smaller than words"):
        Chunking(words=5, overlap=5)
