"""The only place that turns text into token ids and says which of them count.

Text is tokenised piece by piece (prompt, answer, prompt, ...), so a prompt has the same ids at training time, when it
is scored and when it is served, and the loss mask is right by construction instead of being searched for afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded, Message, Segment


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
        UserError: the model has no chat template, or a message contains one of its control tokens.
    """
    text = _render(tokenizer, messages, prompt=True)
    return text, tuple(tokenizer(text, add_special_tokens=False).input_ids)


def encode_chat(tokenizer: Any, messages: Sequence[Message], example_id: str) -> Encoded:
    """Encode a conversation; what the assistant says counts, with the token that ends each of its turns.

    Raises:
        UserError: no chat template, a control token inside a message, no assistant turn, or a template that rewrites
            earlier turns, so that a prompt would not be the beginning of prompt and answer.
    """
    ids: list[int] = []
    mask: list[bool] = []
    done = ""
    for i, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = _render(tokenizer, messages[:i], prompt=True)
        after = _render(tokenizer, messages[: i + 1], prompt=False)
        if not before.startswith(done) or not after.startswith(before):
            raise UserError(
                "this chat template rewrites earlier turns, so prompts are not prefixes", "Use another template or single turns."
            )
        answer, rest = _split_at_end(tokenizer, after[len(before) :])
        for text, counts in ((before[len(done) :], False), (answer, True), (rest, False)):
            piece = tokenizer(text, add_special_tokens=False).input_ids if text else []
            ids += piece
            mask += [counts] * len(piece)
        done = after
    if not any(mask):
        raise UserError("a conversation without an assistant turn has nothing to learn")
    if tokenizer.eos_token not in done:
        ids.append(_end_id(tokenizer))
        mask.append(True)
    return Encoded(tuple(ids), tuple(mask), example_id)


def _split_at_end(tokenizer: Any, answer: str) -> tuple[str, str]:
    at = answer.rfind(tokenizer.eos_token or "\0")
    cut = at + len(tokenizer.eos_token) if at >= 0 else len(answer)
    return answer[:cut], answer[cut:]


def _end_id(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise UserError("this tokenizer has no end-of-sequence token, so a model could never learn to stop")
    return int(tokenizer.eos_token_id)


def _render(tokenizer: Any, messages: Sequence[Message], prompt: bool) -> str:
    if not tokenizer.chat_template:
        raise UserError("this model has no chat template", "Use plain text (chat: false) or an instruct model.")
    for message in messages:
        for token in tokenizer.all_special_tokens:
            if token in message.content:
                raise UserError(
                    f"a {message.role} message contains the control token {token}", "Remove it: it would end the turn early."
                )
    turns = [{"role": m.role, "content": m.content} for m in messages]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=prompt))
