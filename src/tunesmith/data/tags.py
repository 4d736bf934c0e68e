"""Tags of tokens as entities: what CoNLL's scorer counts (Tjong Kim Sang & De Meulder 2003)."""

from __future__ import annotations

import re
from collections.abc import Sequence

OUTSIDE = "O"
_SCHEME = re.compile(r"([BIES])(?:-(.*))?", re.DOTALL)


def parted(tag: str) -> tuple[str, str]:
    """Return a tag's place in its entity (B, I, E or S) and its type; a tag without scheme is inside an entity of its name.

    So neighbours with the same plain tag are one entity.
    """
    found = _SCHEME.fullmatch(tag)
    return (found[1], found[2] or "") if found else ("I", tag)


def entities(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return entities as (first token, one past the last, type), in order.

    An entity begins at B or S, after E or S, after a token outside, and where the type changes: so "I-PER" alone is an
    entity, as in CoNLL's conlleval and in seqeval.
    """
    found: list[tuple[int, int, str]] = []
    before, kind_before = OUTSIDE, ""
    for at, tag in enumerate(tags):
        if tag == OUTSIDE:
            before = OUTSIDE
            continue
        place, kind = parted(tag)
        if place in "BS" or before in "ESO" or kind != kind_before:
            found.append((at, at + 1, kind))
        else:
            found[-1] = (found[-1][0], at + 1, kind)
        before, kind_before = place, kind
    return found
