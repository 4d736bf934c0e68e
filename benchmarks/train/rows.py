"""Real chat rows for the training benchmark: conversations of topical_chat (BIG-bench), at most 512 tokens with the template."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from tunesmith.data.sources import _bigbench


def write_rows(path: Path, tokenizer: Any, count: int, seed: int = 0, longest: int = 512) -> int:
    """Write prompt/completion rows as JSONL; returns their tokens with the chat template."""
    examples = json.loads((_bigbench.folder() / "topical_chat.json").read_text(encoding="utf-8"))["examples"]
    random.Random(seed).shuffle(examples)
    rows, tokens = [], 0
    for example in examples:
        turns = [{"role": "user", "content": example["input"]}, {"role": "assistant", "content": example["target"]}]
        length = len(tokenizer.apply_chat_template(turns)["input_ids"])
        if 64 <= length <= longest:
            rows.append({"prompt": example["input"], "completion": example["target"]})
            tokens += length
        if len(rows) == count:
            break
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tokens
