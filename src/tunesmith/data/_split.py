"""Train, validation and test of what a task is given: by content alone, so that no row stands in two of them."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.core.files import canonical, text_hash
from tunesmith.core.records import Example
from tunesmith.data.template import Template

_TEST_SHARE = 0.2
_VALIDATION_SHARE = 0.1
_LARGEST_VALIDATION = 500
_FEW = 10


def split(template: Template, parts: dict[str, list[Example]], warnings: list[str]) -> dict[str, list[Example]]:
    """Make train, validation and test of what is given, so that no row stands in two of them."""

    def content(example: Example) -> str:
        # Two rows are the same item where their prompts are, whatever else (a number, a source, the label) they carry.
        return canonical([" ".join(str(example.fields[name]).split()).casefold() for name in template.fields])

    train = parts["train"]
    if "test" in parts:
        test = parts["test"]
    else:
        train, test = _carve(train, _TEST_SHARE, "test", content)
        warnings.append(f"no test file: {len(test)} of the training rows were set aside for testing")
    train, dropped = _without(train, test, content)
    if dropped:
        warnings.append(f"{dropped} training rows also stand in the test and were left out of training")
    if "validation" in parts:
        validation, dropped = _without(parts["validation"], [*train, *test], content)
        if dropped:
            warnings.append(f"{dropped} validation rows also stand in train or test and were left out of validation")
    else:
        share = min(_VALIDATION_SHARE, _LARGEST_VALIDATION / max(len(train), 1))
        train, validation = _carve(train, share, "validation", content)
    return {"train": _shuffled(train), "validation": _shuffled(validation), "test": _shuffled(test)}


def _shuffled(examples: list[Example]) -> list[Example]:
    # Files are often sorted by label; an order by hash is as good as random and the same everywhere.
    return sorted(examples, key=lambda e: text_hash("order", e.id))


def _carve(
    examples: list[Example], share: float, name: str, content: Callable[[Example], str]
) -> tuple[list[Example], list[Example]]:
    """Take about a share of the rows away; of ten or more, at least one.

    The side follows from the content alone: equal rows stay on one side, and new rows do not move old ones.
    """
    places = [int(text_hash(name, content(e)), 16) / 16**16 for e in examples]
    limit = max(share, min(places)) if len(examples) >= _FEW else share
    taken = [place <= limit for place in places]
    return [e for e, t in zip(examples, taken, strict=True) if not t], [e for e, t in zip(examples, taken, strict=True) if t]


def _without(examples: list[Example], others: list[Example], content: Callable[[Example], str]) -> tuple[list[Example], int]:
    known = {content(e) for e in others}
    kept = [e for e in examples if content(e) not in known]
    return kept, len(examples) - len(kept)
