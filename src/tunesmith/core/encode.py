"""The only place that turns text into token ids and says which of them count.

Text is tokenised piece by piece (prompt, answer, prompt, ...), so a prompt has the same ids at training time, when it
is scored and when it is served, and the loss mask is right by construction instead of being searched for afterwards.
Control tokens are the chat template's alone: where a row or a user writes one, it is read as the text it looks like.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded, Message, Segment

# Stand-ins for control tokens inside messages while a template is rendered: a plane of Unicode that is private and empty.
_FIRST_MARK = 0xF0000


def token_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Tokenise plain text: no special tokens are added, and none are recognised inside it.

    A row that happens to contain "<|im_end|>" is therefore just text and cannot end a turn.
    """
    return tuple(tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids)


def with_bos(tokenizer: Any, ids: tuple[int, ...]) -> tuple[int, ...]:
    """Prepend the beginning-of-sequence id, once, if this tokenizer's model was trained with one."""
    opening = tokenizer("a", add_special_tokens=True).input_ids[0]
    wants_one = tokenizer.bos_token_id is not None and opening == tokenizer.bos_token_id
    return (opening, *ids) if wants_one and ids[:1] != (opening,) else ids


def token_spans(tokenizer: Any, text: str) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Tokenise as `token_ids` does, with the characters [start, end) of the text that each token stands for.

    Raises:
        UserError: the tokenizer does not tell them, as the slow ones of transformers do not.
    """
    if not tokenizer.is_fast:
        raise UserError("this model's tokenizer does not say where its tokens stand in a text", "Use one with a tokenizer.json.")
    made = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    return tuple(made.input_ids), [tuple(span) for span in made.offset_mapping]


@functools.lru_cache(maxsize=8)
def framed(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens that this tokenizer puts before and after a text: [CLS] and [SEP] of BERT."""
    bare, whole = token_ids(tokenizer, "a"), tuple(tokenizer("a", add_special_tokens=True).input_ids)
    at = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:at], whole[at + len(bare) :]


def encoder_ids(tokenizer: Any, *texts: tuple[int, ...]) -> tuple[int, ...]:
    """Return what an encoder reads of one text or of a pair, given as token ids: [CLS] a [SEP], or [CLS] a [SEP] b [SEP]."""
    if len(texts) == 1:
        opening, closing = framed(tokenizer)
        return (*opening, *texts[0], *closing)
    opening, between, closing = _framed_pair(tokenizer)
    return (*opening, *texts[0], *between, *texts[1], *closing)


def word_ids(tokenizer: Any, words: Sequence[str]) -> list[tuple[int, ...]]:
    """Tokenise words one by one, as they stand in a text with spaces between; a word that leaves no token is unknown.

    Raises:
        UserError: it leaves no token, and the tokenizer has none for what it does not know.
    """
    found = []
    for number, word in enumerate(words):
        ids = _word_ids(tokenizer, f" {word}" if number else word)
        if not ids and tokenizer.unk_token_id is None:
            raise UserError(f"this model's tokenizer makes nothing of the word {word!r:.40}", "Leave the word out.")
        found.append(ids or (int(tokenizer.unk_token_id),))
    return found


@functools.lru_cache(maxsize=1 << 16)
def _word_ids(tokenizer: Any, word: str) -> tuple[int, ...]:
    return token_ids(tokenizer, word)


@functools.lru_cache(maxsize=8)
def _framed_pair(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens before, between and after two texts; the end-of-sequence token between where there are none."""
    bare, whole = token_ids(tokenizer, "a"), tuple(tokenizer("a", "a", add_special_tokens=True).input_ids)
    first, second = [i for i in range(len(whole)) if whole[i : i + len(bare)] == bare][:2]
    between = whole[first + len(bare) : second] or (_end_id(tokenizer),)
    return whole[:first], between, whole[second + len(bare) :]


def encode_text(tokenizer: Any, segments: Sequence[Segment], example_id: str, end: bool = True) -> Encoded:
    """Encode plain segments.

    Args:
        end: close with the end-of-sequence id, as a target: a model that is never shown where to stop never stops.

    Raises:
        UserError: the tokenizer has no end-of-sequence token.
    """
    ids: list[int] = []
    mask: list[bool] = []
    for segment in segments:
        piece = token_ids(tokenizer, segment.text)
        ids += piece
        mask += [segment.counts] * len(piece)
    if end:
        ids.append(_end_id(tokenizer))
        mask.append(True)
    whole = with_bos(tokenizer, tuple(ids))
    return Encoded(whole, (False,) * (len(whole) - len(ids)) + tuple(mask), example_id)


def chat_prompt(tokenizer: Any, messages: Sequence[Message]) -> tuple[str, tuple[int, ...]]:
    """Render a conversation up to where the assistant speaks: the text and its token ids.

    Raises:
        UserError: the model has no chat template, or it refuses this conversation.
    """
    whole = _render(tokenizer, messages, prompt=True)
    pieces = [text for text, _ in _pieces(tokenizer, messages) or ()]
    before = "".join(pieces)
    # A template that rewrites earlier turns has no pieces to keep; its text is then tokenised as one.
    parts = [*pieces, whole[len(before) :]] if whole.startswith(before) else [whole]
    return _unmarked(tokenizer, whole), tuple(i for part in parts for i in _marked_ids(tokenizer, part))


def encode_chat(tokenizer: Any, messages: Sequence[Message], example_id: str) -> Encoded:
    """Encode a conversation; the assistant's turns that count are targets, each with the token that ends it.

    An opening turn of the assistant answers nothing, so it is read and not learned.

    Raises:
        UserError: no chat template or one that refuses this conversation, nothing that counts, or a template that
            rewrites earlier turns, so that a prompt would not be the beginning of prompt and answer.
    """
    pieces = _pieces(tokenizer, messages)
    if pieces is None:
        raise UserError(
            "this chat template rewrites earlier turns, so prompts are not prefixes", "Use another template or single turns."
        )
    ids: list[int] = []
    mask: list[bool] = []
    for text, counts in pieces:
        piece = _marked_ids(tokenizer, text)
        ids += piece
        mask += [counts] * len(piece)
    if not any(mask):
        raise UserError("a conversation without an answer of the assistant that counts has nothing to learn")
    last, counts = pieces[-2]
    if counts and not last.endswith(tokenizer.eos_token or "\0"):
        ids.append(_end_id(tokenizer))
        mask.append(True)
    return Encoded(tuple(ids), tuple(mask), example_id)


def _pieces(tokenizer: Any, messages: Sequence[Message]) -> list[tuple[str, bool]] | None:
    """Cut a rendered conversation at the borders of what the assistant says: (prompt, answer with its end, rest) a turn.

    None where the template rewrites earlier turns. Prompts are cut at the same places as training rows, because
    tokenizers join what stands on both sides of a border.
    """
    pieces: list[tuple[str, bool]] = []
    done = ""
    for i, message in enumerate(messages):
        if message.role != "assistant" or i == 0:
            continue
        before = _render(tokenizer, messages[:i], prompt=True)
        after = _render(tokenizer, messages[: i + 1], prompt=False)
        if not before.startswith(done) or not after.startswith(before):
            return None
        answer, rest = _split_at_end(tokenizer, after[len(before) :])
        pieces += [(before[len(done) :], False), (answer, message.counts), (rest, False)]
        done = after
    return pieces


def _split_at_end(tokenizer: Any, answer: str) -> tuple[str, str]:
    at = answer.rfind(tokenizer.eos_token or "\0")
    cut = at + len(tokenizer.eos_token) if at >= 0 else len(answer)
    return answer[:cut], answer[cut:]


def _end_id(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise UserError("this tokenizer has no end-of-sequence token, so a model could never learn to stop")
    return int(tokenizer.eos_token_id)


def _render(tokenizer: Any, messages: Sequence[Message], prompt: bool) -> str:
    """Render a conversation with a mark in place of every control token that stands inside a message."""
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise UserError("this model has no chat template", "Use plain text (chat: false) or an instruct model.")
    marks = _marks(tokenizer)
    tokens = re.compile("|".join(re.escape(t) for t in sorted(marks, key=len, reverse=True)) or "(?!)")
    turns = [{"role": m.role, "content": tokens.sub(lambda found: marks[found[0]], m.content)} for m in messages]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt))
    except (TemplateError, ValueError) as error:
        roles = ", ".join(m.role for m in messages) or "nothing"
        raise UserError(f"this model's chat template refuses a conversation of {roles}: {error}") from None


@functools.lru_cache(maxsize=8)
def _marks(tokenizer: Any) -> Mapping[str, str]:
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return {token: chr(_FIRST_MARK + i) for i, token in enumerate(dict.fromkeys([*tokenizer.all_special_tokens, *added]))}


def _unmarked(tokenizer: Any, text: str) -> str:
    for token, mark in _marks(tokenizer).items():
        text = text.replace(mark, token)
    return text


def _marked_ids(tokenizer: Any, text: str) -> list[int]:
    """Tokenise rendered text: the template's control tokens are tokens, those behind a mark are the text they look like."""
    token_of = {mark: token for token, mark in _marks(tokenizer).items()}
    ids: list[int] = []
    for part in re.split(f"([{chr(_FIRST_MARK)}-{chr(_FIRST_MARK + len(token_of))}])", text):
        if part in token_of:
            ids += token_ids(tokenizer, token_of[part])
        elif part:
            ids += tokenizer(part, add_special_tokens=False).input_ids
    return ids
