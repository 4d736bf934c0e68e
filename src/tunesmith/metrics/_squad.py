"""What SQuAD's two measures share: an answer without case, punctuation and articles (Rajpurkar et al. 2016, section 6.1)."""

from __future__ import annotations

import re
import string

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def words(answer: str) -> list[str]:
    """Return the words that count of an answer, in order."""
    return _ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split()
