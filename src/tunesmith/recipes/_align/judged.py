"""Judgements as training rows: one row a prompt, all of its completions end to end, so that what was compared stays together.

Each completion stands behind its prompt, as a text of its own; the row's mask is True where a text begins. Its targets are what
was judged, so a mean over targets is a mean over judgements:

    pairs   one target a comparison: 2 (i k + j) + tie of texts i and j among k, i preferred
    texts   one target a judged completion: 2 i + 1 where it was wanted, 2 i where not

Beside every text stand the share of its tokens that are the completion's, its log-probability by the reference, how many targets
the row has, and (texts only) what answers gain anyway.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from tunesmith.core.encode import encode_chat, token_ids, with_bos
from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.records import Encoded, Message, Preference
from tunesmith.data.collate import Batch, micro_batches
from tunesmith.data.preferences import comparisons
from tunesmith.models.decoder import before, hidden_states
from tunesmith.models.decoder_classifier import Texts
from tunesmith.models.load import LM
from tunesmith.models.token_logprobs import token_logprobs

SHARE, REFERENCE, TARGETS, ANYWAY = range(4)
_TOKENS = 4096


@dataclass(frozen=True)
class JudgedPrompt:
    """All that was judged of one prompt.

    Attributes:
        completions: different ones. pairs: (i, j, tie): i was preferred to j, or they tie. wanted: (i, 1 or 0).
        where: "file:line" of its first judgement.
    """

    prompt: str | tuple[Message, ...]
    completions: tuple[str, ...]
    pairs: tuple[tuple[int, int, bool], ...]
    wanted: tuple[tuple[int, int], ...]
    where: str


@dataclass(frozen=True)
class Judged:
    """The texts of a batch, as an offline method sees them.

    Attributes:
        logprobs: [S] log pi(y), summed over a completion's tokens, nats. lengths: [S] its tokens. reference: [S] log ref(y).
        first, second: [N] the texts of each comparison, first preferred; tie: [N] booleans. Of methods that learn from pairs.
        judged: [N] the texts that were judged by themselves; wanted: [N] booleans; anyway: [N] what others gain, nats. Of others.
    """

    logprobs: torch.Tensor
    lengths: torch.Tensor
    reference: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    tie: torch.Tensor
    judged: torch.Tensor
    wanted: torch.Tensor
    anyway: torch.Tensor

    @property
    def gains(self) -> torch.Tensor:
        """log pi(y) - log ref(y), [S] nats: beta times this is the implicit reward."""
        return self.logprobs - self.reference


def by_prompt(judgements: Sequence[Preference]) -> list[JudgedPrompt]:
    """Bring together what was judged of each prompt, in the order of the prompts' first judgements.

    A pair is also one wanted and one unwanted completion; a tie says neither.
    """
    groups: dict[str | tuple[Message, ...], list[Preference]] = {}
    for one in judgements:
        groups.setdefault(one.prompt, []).append(one)
    found = []
    for prompt, some in groups.items():
        texts: dict[str, int] = {}
        for one in some:
            for completion in one.completions:
                texts.setdefault(completion, len(texts))
        pairs, wanted = list[tuple[int, int, bool]](), list[tuple[int, int]]()
        for one in some:
            numbers = [texts[completion] for completion in one.completions]
            mine = [(numbers[i], numbers[j], tie) for i, j, tie in comparisons(one)]
            pairs += mine
            wanted += [(number, sign) for i, j, tie in mine if not tie for number, sign in ((i, 1), (j, 0))]
            if len(numbers) == 1 and one.ratings:
                if one.ratings[0] not in (0.0, 1.0):
                    continue
                wanted.append((numbers[0], int(one.ratings[0])))
        found.append(JudgedPrompt(prompt, tuple(texts), tuple(pairs), tuple(dict.fromkeys(wanted)), some[0].where))
    return found


def encode_answer(lm: LM, prompt: str | tuple[Message, ...], completion: str) -> tuple[tuple[int, ...], int]:
    """Return the token ids of a prompt with its answer, and how many of them are the answer's, its end included.

    A prompt that is a text is read as it stands, as `align` samples from it; turns go through the chat template.

    Raises:
        UserError: the tokenizer has no end-of-sequence token, or there is no chat template for turns.
    """
    tokenizer = lm.tokenizer
    if isinstance(prompt, str):
        if tokenizer.eos_token_id is None:
            raise UserError("this tokenizer has no end-of-sequence token, so no answer has an end", "Use another model.")
        asked, answer = with_bos(tokenizer, token_ids(tokenizer, prompt)), token_ids(tokenizer, completion)
        return (*asked, *answer, int(tokenizer.eos_token_id)), len(answer) + 1
    row = encode_chat(tokenizer, [*(replace(turn, counts=False) for turn in prompt), Message("assistant", completion)], "")
    # What a template writes behind the last answer is no part of it.
    end = len(row.ids) - row.loss_mask[::-1].index(True)
    return row.ids[:end], sum(row.loss_mask)


def encode_row(lm: LM, texts: Sequence[tuple[tuple[int, ...], int]], targets: Sequence[int], where: str) -> Encoded:
    """Make the row of one prompt of what `encode_answer` returned of each of its completions; no reference yet."""
    ids = tuple(token for text, _ in texts for token in text)
    begins = tuple(place == 0 for text, _ in texts for place in range(len(text)))
    beside = tuple((length / len(text), 0.0, float(len(targets)), 0.0) for text, length in texts)
    return Encoded(ids, begins, where, tuple(targets), beside)


def as_read(row: Encoded) -> Encoded:
    """Return a row for people to look at, with the mask True at the tokens of completions."""
    assert row.beside is not None
    starts = [*(place for place, begins in enumerate(row.loss_mask) if begins), len(row)]
    mask: list[bool] = []
    for start, end, beside in zip(starts, starts[1:], row.beside, strict=False):
        answer = round(beside[SHARE] * (end - start))
        mask += [False] * (end - start - answer) + [True] * answer
    return Encoded(row.ids, tuple(mask), row.example_id)


def text_targets(asked: JudgedPrompt) -> list[int]:
    """Return the targets of a prompt's completions that were wanted or not."""
    return [2 * number + sign for number, sign in asked.wanted]


def pair_targets(asked: JudgedPrompt, ties: bool) -> list[int]:
    """Return the targets of a prompt's comparisons; without `ties`, of those that name a better one."""
    count = len(asked.completions)
    return [2 * (i * count + j) + tie for i, j, tie in asked.pairs if ties or not tie]


def logprobs_of(lm: LM, batch: Batch, activation_checkpointing: bool = False) -> tuple[torch.Tensor, torch.Tensor, Texts]:
    """Return log pi(y) [S] of a batch's completions, summed over their tokens, nats; their lengths [S]; and the texts."""
    assert batch.beside is not None
    texts = Texts.of(*batch.tensors(lm.device))
    lengths = (batch.beside[:, SHARE].to(lm.device) * texts.lengths).round().long()
    places = torch.arange(texts.ids.shape[1], device=texts.ids.device)
    answers = (places >= (texts.lengths - lengths)[:, None]) & (places < texts.lengths[:, None])
    hidden = hidden_states(lm.model, texts.ids, texts.lengths, before(answers), activation_checkpointing, texts.row)
    each = token_logprobs(lm.model, hidden, texts.ids[answers])
    which = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    return each.new_zeros(len(lengths)).index_add(0, which, each), lengths, texts


def judged(lm: LM, batch: Batch, pairs: bool, activation_checkpointing: bool = False) -> Judged:
    """Read a batch with the model as it is.

    Args:
        pairs: the targets are comparisons; else they say which completions were wanted.
    """
    assert batch.targets is not None
    assert batch.beside is not None
    logprobs, lengths, texts = logprobs_of(lm, batch, activation_checkpointing)
    beside = batch.beside.to(lm.device)
    starts = texts.per_row.cumsum(0) - texts.per_row
    row = torch.repeat_interleave(torch.arange(len(starts), device=lm.device), beside[starts, TARGETS].long())
    codes, mark = (part.to(lm.device) for part in (batch.targets // 2, batch.targets % 2 == 1))
    none = codes.new_zeros(0)
    both = lengths, beside[:, REFERENCE]
    if pairs:
        start, count = starts[row], texts.per_row[row]
        return Judged(logprobs, *both, start + codes // count, start + codes % count, mark, none, none.bool(), none.float())
    return Judged(logprobs, *both, none, none, none.bool(), starts[row] + codes, mark, beside[:, ANYWAY])


def log_probabilities(lm: LM, rows: Sequence[Encoded], tokens: int = _TOKENS) -> list[list[float]]:
    """Return log p of each row's completions by the model as it is, nats, through the forward pass of training.

    Raises:
        WorkFailed: one is not finite.
    """
    numbered = [replace(row, example_id=str(number)) for number, row in enumerate(rows)]
    found: list[list[float]] = [[] for _ in rows]
    training = lm.model.training
    lm.model.eval()
    with torch.no_grad():
        for batch in micro_batches(numbered, tokens):
            logprobs, _, texts = logprobs_of(lm, batch)
            for name, some in zip(batch.example_ids, logprobs.split(texts.per_row.tolist()), strict=True):
                found[int(name)] = some.tolist()
    lm.model.train(training)
    for row, some in zip(rows, found, strict=True):
        if not all(map(math.isfinite, some)):
            raise WorkFailed(f"the model gives no finite log-probability to a completion at {row.example_id}")
    return found


def with_beside(row: Encoded, place: int, numbers: Sequence[float]) -> Encoded:
    """Put numbers, one a text, into one column beside a row."""
    assert row.beside is not None
    columns = [(*old[:place], new, *old[place + 1 :]) for old, new in zip(row.beside, numbers, strict=True)]
    return replace(row, beside=tuple(columns))
