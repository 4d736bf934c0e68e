"""Rows with some of their tokens hidden, new every epoch (Devlin et al. 2019, section 3.1; Liu et al. 2019, section 4.1).

Of a row's n tokens, max(1, round(0.15 n)) are chosen to be predicted; special tokens are never among them. A chosen token
becomes [MASK] with probability 0.8, a random token with 0.1, and stays as it is with 0.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.core.encode import framed, token_ids
from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded, Example
from tunesmith.core.seeds import derive
from tunesmith.data.cloze import Pattern
from tunesmith.data.collate import ChangedRows

_MASKED, _RANDOM = 0.8, 0.1
# How tokens say that a word begins (byte-level BPE, SentencePiece) or goes on (WordPiece).
_BEGINS, _GOES_ON = ("Ġ", "Ċ", "ĉ", "▁"), "##"


@dataclass(frozen=True)
class Masking:
    """How tokens are chosen and what takes their place.

    Attributes:
        mask_id: the mask token. ordinary: ids that may replace a token: the vocabulary without special tokens.
        begins_word: [V] booleans, True where a token begins a word; None = tokens are chosen one by one.
        share: of a row's tokens.
    """

    mask_id: int
    ordinary: NDArray[np.int64]
    begins_word: NDArray[np.bool_] | None
    share: float = 0.15

    @classmethod
    def of(cls, tokenizer: Any, share: float = 0.15, whole_words: bool = False) -> Masking:
        """Return the masking for a tokenizer.

        Args:
            whole_words: choose words, all tokens of a word or none (the "whole word masking" of BERT's authors).

        Raises:
            UserError: it has no mask token, or (whole words) its tokens do not show where words begin.
        """
        if tokenizer.mask_token_id is None:
            raise UserError("this model's tokenizer has no mask token", "Use an encoder of the BERT family, for example minilm.")
        special = [*tokenizer.all_special_ids]
        ordinary = np.setdiff1d(np.arange(len(tokenizer)), special)
        begins = _word_beginnings(tokenizer) if whole_words else None
        return cls(int(tokenizer.mask_token_id), ordinary, begins, share)

    def masked(self, row: Encoded, seed: int, whole: bool = False) -> Encoded:
        """Hide some tokens of a row; the same seed hides the same.

        Args:
            row: its mask is True at the tokens that may be chosen.
            whole: hide all of them, each behind [MASK]: the answer in a cloze pattern.

        Returns:
            The row with the mask True at the tokens that were chosen, and these as its targets, in order.
        """
        random = np.random.default_rng(seed)
        ids = np.array(row.ids, np.int64)
        may = np.flatnonzero(row.loss_mask)
        chosen = may if whole else self._choose(ids, may, random)
        kind, others = random.random(len(chosen)), random.choice(self.ordinary, len(chosen))
        targets = ids[chosen]
        ids[chosen] = np.where((kind < _MASKED) | whole, self.mask_id, np.where(kind < _MASKED + _RANDOM, others, targets))
        mask = np.zeros(len(ids), bool)
        mask[chosen] = True
        return replace(row, ids=tuple(ids.tolist()), loss_mask=tuple(mask.tolist()), targets=tuple(targets.tolist()))

    def _choose(self, ids: NDArray[np.int64], may: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
        wanted = max(1, round(self.share * len(may)))
        if self.begins_word is None:
            return np.sort(random.choice(may, wanted, replace=False))
        starts = np.union1d([0], np.flatnonzero(self.begins_word[ids[may]]))
        words = np.split(may, starts[1:])
        chosen: list[NDArray[np.int64]] = []
        for number in random.permutation(len(words)):
            # A word that does not fit any more is passed over; the first one stays, however long.
            if not chosen or sum(map(len, chosen)) + len(words[number]) <= wanted:
                chosen.append(words[number])
        return np.sort(np.concatenate(chosen))


def masked_rows(rows: Sequence[Encoded], masking: Masking, seed: int, whole: NDArray[np.bool_] | None = None) -> ChangedRows:
    """Return rows that are masked anew every epoch.

    Args:
        rows: their mask is True at the tokens that may be chosen (see `encode_document` and `encode_answer`).
        whole: [rows] booleans, True for rows of which all of these are hidden; None = no such rows.
    """
    every = np.zeros(len(rows), bool) if whole is None else whole
    return ChangedRows(rows, lambda row, place, drawn: masking.masked(row, drawn, bool(every[place])), derive(seed, "mask"))


def encode_document(tokenizer: Any, text: str, where: str, longest: int) -> list[Encoded]:
    """Encode a text for masking: between the tokenizer's special tokens, in as many rows as its length needs.

    Args:
        where: names the rows. longest: tokens of a row, special ones included.

    Returns:
        Rows whose mask is True at every token of the text; none for a text without tokens.
    """
    opening, closing = framed(tokenizer)
    room = longest - len(opening) - len(closing)
    ids = token_ids(tokenizer, text)
    pieces = [ids[start : start + room] for start in range(0, len(ids), room)]
    return [
        Encoded(
            (*opening, *piece, *closing),
            (False,) * len(opening) + (True,) * len(piece) + (False,) * len(closing),
            where if len(pieces) == 1 else f"{where} part {number}",
        )
        for number, piece in enumerate(pieces, 1)
    ]


def encode_answer(tokenizer: Any, pattern: Pattern, example: Example, word: str, longest: int) -> Encoded:
    """Encode a row with the right answer in a pattern's gap; the mask is True at the answer's tokens.

    Args:
        word: the answer. longest: tokens of a row, special ones included; only fields are shortened.

    Raises:
        UserError: as `Pattern.render` and `Pattern.word_ids`.
    """
    (answer,) = pattern.word_ids(tokenizer, [word])
    cloze = pattern.render(tokenizer, example.fields, longest, len(answer))
    first, after = cloze.at[0], cloze.at[-1] + 1
    ids = (*cloze.ids[:first], *answer, *cloze.ids[after:])
    return Encoded(ids, tuple(first <= i < after for i in range(len(ids))), example.where)


def _word_beginnings(tokenizer: Any) -> NDArray[np.bool_]:
    tokens = [str(token) for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    begins = np.array([token.startswith(_BEGINS) for token in tokens])
    goes_on = np.array([token.startswith(_GOES_ON) and token != _GOES_ON for token in tokens])
    if not begins.any() and not goes_on.any():
        raise UserError("this model's tokens do not show where words begin, so whole words cannot be masked", "Mask tokens.")
    return begins if begins.sum() > goes_on.sum() else ~goes_on
