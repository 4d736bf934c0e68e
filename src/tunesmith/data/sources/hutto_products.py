"""Sentiment of sentences of product reviews, rated by 20 people each (Hutto & Gilbert 2014)."""

from __future__ import annotations

from tunesmith.core.records import Example
from tunesmith.data.sources import _hutto

LICENCE, CITATION = _hutto.LICENCE, _hutto.CITATION
KIND = "amazonReviewSnippets"


def splits() -> dict[str, list[Example]]:
    """Return train, validation and test; fields: text, label, mean, ratings."""
    return _hutto.splits(KIND)
