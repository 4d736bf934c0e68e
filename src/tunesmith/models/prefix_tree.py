"""What many prompts have in common: a tree of shared beginnings, so that each is read once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

# A beginning shorter than this, or one that saves fewer tokens, costs more to keep apart than to read again.
_SHORTEST, _SAVES = 16, 32


@dataclass
class Node:
    """A beginning that several prompts share.

    Attributes:
        ids: its tokens, without those of the nodes above. start: number of tokens above.
        children: longer beginnings that go on from it. prompts: numbers of the prompts that go on from it by themselves.
    """

    ids: tuple[int, ...]
    start: int
    children: list[Node] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Number of tokens up to its end."""
        return self.start + len(self.ids)

    @property
    def first(self) -> int:
        """Number of one of the prompts under it."""
        return self.prompts[0] if self.prompts else self.children[0].first


def prefix_tree(prompts: Sequence[tuple[int, ...]], share: bool = True, numbers: Sequence[int] | None = None) -> Node:
    """Return the root, of no tokens, of the tree of different prompts; the last token of a prompt is never shared.

    Args:
        share: False = a root with all prompts and nothing else.
        numbers: of the prompts to take; None = all.
    """
    root = Node((), 0)
    numbers = range(len(prompts)) if numbers is None else numbers
    if not share:
        root.prompts = list(numbers)
        return root
    order = sorted(numbers, key=prompts.__getitem__)
    # Ranges of `order` with the node they stand under; tokens up to `depth` are known to be equal within a range.
    waiting = [(0, len(order), 0, root)]
    while waiting:
        low, high, depth, above = waiting.pop()
        if high - low == 1:
            above.prompts.append(order[low])
            continue
        depth = _common(prompts[order[low]], prompts[order[high - 1]], depth)
        # In sorted order a prompt that begins the others comes first; its last token stays its own.
        end = min(depth, len(prompts[order[low]]) - 1)
        length = end - above.end
        if length >= _SHORTEST and length * (high - low - 1) >= _SAVES:
            node = Node(prompts[order[low]][above.end : end], above.end)
            above.children.append(node)
            above = node
        start = low
        while start < high:
            stop = _same_token(prompts, order, start, high, depth)
            waiting.append((start, stop, depth, above))
            start = stop
    return root


def _common(first: tuple[int, ...], last: tuple[int, ...], known: int) -> int:
    """Return how many tokens two prompts share at their beginning, `known` at least."""
    most = min(len(first), len(last))
    while known < most and first[known] == last[known]:
        known += 1
    return known


def _same_token(prompts: Sequence[tuple[int, ...]], order: Sequence[int], start: int, high: int, depth: int) -> int:
    """Return the end of the prompts from `start` on that have the same token at `depth`; one that ends there is alone."""
    first = prompts[order[start]]
    stop = start + 1
    while len(first) > depth and stop < high and prompts[order[stop]][depth] == first[depth]:
        stop += 1
    return stop
