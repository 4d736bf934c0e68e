"""Real multiple-choice items of BIG-bench: with demonstrations that all items share, and with nothing shared but the item."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tunesmith.data.sources import _bigbench


def few_shot(count: int = 40, shots: int = 5, seed: int = 0) -> list[dict[str, Any]]:
    """Return `count` items of intent_recognition, 7 choices each, after the same demonstrations."""
    examples = _examples("intent_recognition.json", seed)
    shown = "".join(f"{e['input']}\nIntent: {_gold(e)}\n\n" for e in examples[:shots])
    return [_row(f"{shown}{e['input']}\nIntent:", e, 7) for e in examples[shots : shots + count]]


def zero_shot(count: int = 80, seed: int = 0) -> list[dict[str, Any]]:
    """Return `count` items of abstract_narrative_understanding: a story, and four proverbs to choose from."""
    examples = _examples("abstract_narrative_understanding/9_distractors.json", seed)
    return [_row(f"{e['input'].strip()}\nThe proverb:", e, 4) for e in examples[:count]]


def _examples(name: str, seed: int) -> list[dict[str, Any]]:
    examples = json.loads((_bigbench.folder() / name).read_text(encoding="utf-8"))["examples"]
    random.Random(seed).shuffle(examples)
    return examples


def _gold(example: dict[str, Any]) -> str:
    return max(example["target_scores"], key=example["target_scores"].__getitem__)


def _row(context: str, example: dict[str, Any], choices: int) -> dict[str, Any]:
    gold = _gold(example)
    others = [choice for choice in example["target_scores"] if choice != gold]
    said = sorted([gold, *others[: choices - 1]])
    return {"context": context, "choices": [f" {choice}" for choice in said], "gold": said.index(gold)}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSONL."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
