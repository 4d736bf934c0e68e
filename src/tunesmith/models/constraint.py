"""Answers that must match: one of some choices, a regular expression, or a JSON schema.

A constraint is turned into a finite automaton over token ids once (Willard & Louf 2023, algorithm 4, by the library
outlines-core); while an answer grows, only tokens that can still lead to a match are allowed.
"""

from __future__ import annotations

import json
import re
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.core.errors import UserError

_LONGEST = 20_000


@dataclass(frozen=True)
class Constraint:
    """What an answer must look like, as a regular expression that has to match all of it."""

    regex: str

    def __post_init__(self) -> None:
        if not self.regex or len(self.regex) > _LONGEST:
            raise UserError(f"a constraint needs between 1 and {_LONGEST:,} characters, and this one has {len(self.regex):,}")

    @classmethod
    def choices(cls, words: Sequence[str]) -> Constraint:
        """Return the constraint to say one of some words.

        Raises:
            UserError: there are none, or an empty one.
        """
        if not words or not all(words):
            raise UserError("choices to generate from must be words", "Give at least one, and no empty one.")
        return cls("(" + "|".join(re.escape(word) for word in words) + ")")

    @classmethod
    def json_schema(cls, schema: str) -> Constraint:
        """Return the constraint to say JSON that fits a schema, given as JSON text.

        Raises:
            UserError: no JSON, or a schema with something that has no regular expression; says what.
        """
        try:
            return cls(_library().json_schema.build_regex_from_schema(json.dumps(json.loads(schema))))
        except (ValueError, TypeError) as error:
            raise UserError(f"the JSON schema cannot be followed: {error}", "Check it, or use a simpler one.") from None


def _library() -> Any:
    try:
        import outlines_core
        import outlines_core.json_schema
    except ImportError:
        raise UserError(
            "answers are constrained by the package outlines-core, which is not installed", "pip install 'tunesmith[constrain]'"
        ) from None
    return outlines_core


class Automaton:
    """A constraint for one tokenizer; `begin` gives the state of an answer that has just begun.

    Raises:
        UserError: the regular expression cannot be read, or no text of this tokenizer can match it.
    """

    def __init__(self, constraint: Constraint, tokenizer: Any) -> None:
        self._guide = _library().Guide
        try:
            self._index = _library().Index(constraint.regex, _vocabulary(tokenizer))
        except (ValueError, TypeError) as error:
            raise UserError(f"no answer can match '{constraint.regex[:80]}': {error}", "Check the regular expression.") from None

    def begin(self) -> State:
        """Return the state of an empty answer."""
        return State(self._guide(self._index))


class State:
    """How far an answer has come."""

    def __init__(self, guide: Any) -> None:
        self._guide = guide

    def allowed(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits [V] of the tokens that can come next, the others at minus infinity."""
        index = torch.tensor(self._guide.get_tokens(), device=logits.device)
        return torch.full_like(logits, -torch.inf).index_copy_(0, index, logits[index])

    def advance(self, token: int) -> None:
        """Note the token that was chosen."""
        if not self._guide.is_finished():
            self._guide.advance(token, return_tokens=False)


_vocabularies: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def _vocabulary(tokenizer: Any) -> Any:
    known = _vocabularies.get(tokenizer)
    if known is None:
        by_bytes: dict[bytes, list[int]] = {}
        for token, content in token_bytes(tokenizer).items():
            by_bytes.setdefault(content, []).append(token)
        known = _vocabularies[tokenizer] = _library().Vocabulary(tokenizer.eos_token_id, by_bytes)
    return known


def token_bytes(tokenizer: Any) -> dict[int, bytes]:
    """Return what each token stands for; special tokens stand for nothing and are left out.

    Raises:
        UserError: a tokenizer of an unknown kind.
    """
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    pieces = {token: piece for piece, token in tokenizer.get_vocab().items() if token not in special}
    decoder = str(json.loads(tokenizer.backend_tokenizer.to_str()).get("decoder")) if tokenizer.is_fast else ""
    if "'ByteLevel'" in decoder:
        alphabet = _byte_alphabet()
        return {token: bytes(alphabet[c] for c in piece) for token, piece in pieces.items() if all(c in alphabet for c in piece)}
    if "'ByteFallback'" in decoder or "'Metaspace'" in decoder or "▁" in decoder:
        byte = re.compile(r"<0x([0-9A-F]{2})>")
        return {
            token: bytes([int(m[1], 16)]) if (m := byte.fullmatch(piece)) else piece.replace("▁", " ").encode()
            for token, piece in pieces.items()
        }
    raise UserError("this tokenizer does not say what bytes its tokens stand for, so answers cannot be constrained")


def _byte_alphabet() -> dict[str, int]:
    """Return the printable characters that byte-level tokenizers write bytes as (Radford et al. 2019, section 2.2)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}
