"""Rows of chat files become training sequences in which only what should be learned counts."""

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.core.errors import UserError
from tunesmith.data import formats
from tunesmith.models import toy
from tunesmith.recipes._tune.rows import encode_row

TOKENIZER = toy.byte_tokenizer()
PLAIN = toy.byte_tokenizer()
PLAIN.chat_template = None


def learned(tmp_path: Path, row: dict[str, Any], tokenizer: Any = TOKENIZER) -> tuple[str, str]:
    """All text of a row read from a file, and the part of it that counts."""
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    [example], _, _ = formats.read(path)
    encoded = encode_row(tokenizer, example)
    assert encoded.example_id == example.id
    counted = [i for i, counts in zip(encoded.ids, encoded.loss_mask, strict=True) if counts]
    return tokenizer.decode(list(encoded.ids)), tokenizer.decode(counted)


def turns(*said: tuple[str, str, int | None]) -> list[dict[str, Any]]:
    """OpenAI messages, with a weight where one is given."""
    return [{"role": role, "content": text} | ({} if weight is None else {"weight": weight}) for role, text, weight in said]


def test_messages_of_weight_zero_do_not_count(tmp_path: Path) -> None:
    said = [("user", "q1", None), ("assistant", "one", 0), ("user", "q2", None), ("assistant", "two", 1)]
    text, counted = learned(tmp_path, {"messages": turns(*said)})
    assert text == "<|user|>q1<|end|><|assistant|>one<|end|><|user|>q2<|end|><|assistant|>two<|end|>"
    assert counted == "two<|end|>"
    # The control: without the weight both answers count.
    said[1] = ("assistant", "one", None)
    assert learned(tmp_path, {"messages": turns(*said)}) == (text, "one<|end|>two<|end|>")


def test_answers_inside_a_prompt_do_not_count(tmp_path: Path) -> None:
    row = {
        "prompt": turns(("user", "q1", None), ("assistant", "one", None), ("user", "q2", None)),
        "completion": turns(("assistant", "two", None)),
    }
    assert learned(tmp_path, row)[1] == "two<|end|>"


def test_prompt_and_completion_are_a_chat_where_the_model_has_one(tmp_path: Path) -> None:
    row = {"prompt": "2+2=", "completion": " 4"}
    assert learned(tmp_path, row) == ("<|user|>2+2=<|end|><|assistant|> 4<|end|>", " 4<|end|>")
    assert learned(tmp_path, row, PLAIN) == ("2+2= 4<|end|>", " 4<|end|>")


def test_every_token_of_plain_text_counts(tmp_path: Path) -> None:
    assert learned(tmp_path, {"text": "Once <|end|> upon"}) == ("Once <|end|> upon<|end|>",) * 2


def test_a_row_that_cannot_be_encoded_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl:1: this model has no chat template\n  Use plain text"):
        learned(tmp_path, {"messages": turns(("user", "q", None), ("assistant", "a", None))}, PLAIN)
