"""What choices by similarity are handed: how alike rows are, by meaning or by words; who makes it is the route's affair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example

# Q rows and N rows -> scores [Q, N], larger = more alike: cosines of embeddings, or BM25 of the first as queries.
Similar = Callable[[Sequence[Example], Sequence[Example]], Any]


def needed(similar: Similar | None, choice: str) -> Similar:
    """Return the similarity a choice was handed.

    Raises:
        UserError: it was handed none.
    """
    if similar is None:
        raise UserError(f"choosing {choice} demonstrations needs a similarity of rows")
    return similar
