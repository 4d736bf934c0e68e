"""Cloze prompts: a text with a gap that a masked language model fills with a word (Schick & Schuetze 2021, section 3).

A pattern is text with {field} slots and one {answer} slot anywhere, for example "{text} It was {answer}.". The gap has one
mask for each token of the word that is tried in it, so a word of one token is read off one [MASK], as in PET.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.core.encode import framed, token_ids, token_spans
from tunesmith.core.errors import UserError, near_miss

_SLOT = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_EXAMPLE = 'For example "{text} It was {answer}.".'


@dataclass(frozen=True)
class Cloze:
    """A pattern filled with a row, ready for a masked language model.

    Attributes:
        text: exactly what the model reads, with its mask tokens. ids: T token ids, special tokens included.
        at: places of the masks in `ids`, in order. shortened: tokens that were left out at the ends of fields.
    """

    text: str
    ids: tuple[int, ...]
    at: tuple[int, ...]
    shortened: int = 0


@dataclass(frozen=True)
class Pattern:
    """Where a row's fields and its answer stand in a text.

    Attributes:
        text: with {field} slots and {answer} exactly once. White space before {answer} belongs to the word in it, because
            many tokenizers join the two.
    """

    text: str

    def __post_init__(self) -> None:
        if self.text.count("{answer}") != 1:
            raise UserError(f"the pattern '{self.text}' needs the slot {{answer}} exactly once", _EXAMPLE)
        if not self.fields:
            raise UserError(f"the pattern '{self.text}' needs a {{field}} of the rows", _EXAMPLE)

    @property
    def fields(self) -> list[str]:
        """Names of the fields it uses, in order."""
        return [name for name in dict.fromkeys(_SLOT.findall(self.text)) if name != "answer"]

    @property
    def lead(self) -> str:
        """What stands between the text before and the word in the gap: a space, or nothing."""
        before = self.text.partition("{answer}")[0]
        return " " if before != before.rstrip() else ""

    def check(self, fields: Mapping[str, Any]) -> None:
        """Check that a row has what the pattern uses.

        Raises:
            UserError: it lacks a field (with a near miss), or the field is null.
        """
        for name in self.fields:
            if name not in fields:
                known = near_miss(name, map(str, fields))
                raise UserError(f"the pattern '{self.text}' uses {{{name}}}, which the row does not have", known)
            if fields[name] is None:
                raise UserError(f"'{name}' is null")

    def render(self, tokenizer: Any, fields: Mapping[str, Any], longest: int, masks: int = 1) -> Cloze:
        """Fill in a row; what is too long is shortened at the end of its longest field, never in the pattern or a mask.

        Args:
            tokenizer: of a masked language model. fields: the row's. longest: tokens the model reads, special ones included.
            masks: tokens of the word to try.

        Raises:
            UserError: a field is missing, the tokenizer has no mask, or the pattern by itself is too long.
        """
        self.check(fields)
        _require_mask(tokenizer)
        values = {name: str(fields[name]) for name in self.fields}
        before, _, after = self.text.partition("{answer}")
        sides = [_Side(tokenizer, before.rstrip(), values), _Side(tokenizer, after, values)]
        opening, closing = framed(tokenizer)
        room = longest - len(opening) - len(closing) - masks
        shortened = _shorten(sides, room)
        if shortened < 0:
            raise UserError(f"the pattern '{self.text}' has more tokens by itself than the {longest:,} that the model reads")
        left, right = (side.ids() for side in sides)
        first = len(opening) + len(left)
        gap = self.lead + tokenizer.mask_token * masks
        return Cloze(
            text=sides[0].shown() + gap + sides[1].shown(),
            ids=(*opening, *left, *[tokenizer.mask_token_id] * masks, *right, *closing),
            at=tuple(range(first, first + masks)),
            shortened=shortened,
        )

    def word_ids(self, tokenizer: Any, words: Sequence[str]) -> list[tuple[int, ...]]:
        """Return the token ids of words as they stand in the gap: after a space if the pattern has one there.

        Raises:
            UserError: a word is not in the vocabulary, or two words have the same tokens.
        """
        seen: dict[tuple[int, ...], str] = {}
        for word in words:
            ids = token_ids(tokenizer, self.lead + word)
            if not ids or tokenizer.unk_token_id in ids:
                raise UserError(f"the word '{word}' is not in the vocabulary of this model", "Choose another word.")
            if ids in seen:
                pieces = " ".join(tokenizer.convert_ids_to_tokens(list(ids)))
                raise UserError(
                    f"the words '{seen[ids]}' and '{word}' are the same to this model ({pieces})", "Keep one of them."
                )
            seen[ids] = word
        return list(seen)

    def single_ids(self, tokenizer: Any, words: Sequence[str]) -> list[int]:
        """Return the one token of each word in the gap, as PET needs it.

        Raises:
            UserError: a word has more than one token there; names it and its pieces. Also as `word_ids`.
        """
        ids = self.word_ids(tokenizer, words)
        for word, tokens in zip(words, ids, strict=True):
            if len(tokens) > 1:
                where = " after a space" if self.lead and len(token_ids(tokenizer, word)) == 1 else ""
                pieces = f"{len(tokens)} tokens{where} ({_pieces(tokenizer, tokens)})"
                raise UserError(f"the word '{word}' is {pieces} to this model, and a mask holds one", "Choose another word.")
        return [tokens[0] for tokens in ids]


def _pieces(tokenizer: Any, ids: tuple[int, ...]) -> str:
    return " ".join(tokenizer.convert_ids_to_tokens(list(ids)))


def _require_mask(tokenizer: Any) -> None:
    if tokenizer.mask_token_id is None:
        raise UserError("this model's tokenizer has no mask token", "Use an encoder of the BERT family, for example minilm.")


class _Side:
    """The tokens on one side of the gap, and which of them may be left out: those that lie wholly inside a field."""

    def __init__(self, tokenizer: Any, text: str, values: Mapping[str, str]) -> None:
        self.text = ""
        fields: list[tuple[int, int]] = []
        for number, piece in enumerate(_SLOT.split(text)):
            start = len(self.text)
            self.text += values[piece] if number % 2 else piece
            if number % 2:
                fields.append((start, len(self.text)))
        self.tokens, self.spans = token_spans(tokenizer, self.text)
        self.fields = fields
        # Per field, the places of its own tokens; a token that joins it with the pattern around it stays.
        self.own = [[i for i, (a, b) in enumerate(self.spans) if start <= a and b <= end] for start, end in fields]
        self.cut: set[int] = set()

    def ids(self) -> tuple[int, ...]:
        """The tokens that stay."""
        return tuple(token for i, token in enumerate(self.tokens) if i not in self.cut)

    def shown(self) -> str:
        """The text that stays."""
        text = self.text
        for (_, end), own in sorted(zip(self.fields, self.own, strict=True), reverse=True):
            kept = [i for i in own if i not in self.cut]
            if len(kept) < len(own):
                first = self.spans[own[len(kept)]][0]
                text = text[:first].rstrip() + text[end:]
        return text


def _shorten(sides: Sequence[_Side], room: int) -> int:
    """Leave out the last tokens of whatever field is longest until both sides fit; returns how many, -1 = it cannot be."""
    excess = sum(len(side.tokens) for side in sides) - room
    left = [(side, list(own)) for side in sides for own in side.own]
    if excess > sum(len(own) for _, own in left):
        return -1
    done = 0
    while done < excess:
        side, own = max(left, key=lambda one: len(one[1]))
        start = side.spans[own[-1]][0]
        # Bytes of one character go together.
        while own and side.spans[own[-1]][1] > start:
            side.cut.add(own.pop())
            done += 1
    return done
