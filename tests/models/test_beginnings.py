"""Texts of a prompt that is read once have the hidden states and gradients of texts read by themselves."""

from typing import Any

import pytest
import torch
from test_decoder import CONFIGS, model_of, same

from tunesmith.core.levers import without
from tunesmith.models.beginnings import branched, same_prompts
from tunesmith.models.decoder import hidden_states

# Two prompts, of which three and two texts go on, and one by itself; the texts of the first agree in one token more.
TEXTS = (
    [5, 6, 7, 8, 9, 20, 21], [5, 6, 7, 8, 9, 20, 23, 24], [5, 6, 7, 8, 9, 20],
    [*range(30, 48), 1, 2], [*range(30, 48), 3, 4, 5], [60, 61],
)  # fmt: skip
OF_PROMPT = torch.tensor([0, 0, 0, 1, 1, 2])
WIDTH = 1_000


def padded(wanted_from_end: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids padded with nonsense, lengths, and marks at the last tokens of each text."""
    lengths = torch.tensor([len(text) for text in TEXTS])
    ids = torch.full((len(TEXTS), int(lengths.max())), 77)
    for row, text in zip(ids, TEXTS, strict=True):
        row[: len(text)] = torch.tensor(text)
    places = torch.arange(ids.shape[1])
    return ids, lengths, (places < lengths[:, None]) & (places >= lengths[:, None] - wanted_from_end)


def result(model: Any, last: int, of_prompt: torch.Tensor | None, checkpointing: bool = False) -> Any:
    """Hidden states at the last tokens, and gradients of something that depends on all of them."""
    model.zero_grad()
    hidden = hidden_states(model, *padded(last), checkpointing, of_prompt)
    (hidden.sin() * torch.arange(hidden.numel()).view_as(hidden).cos()).sum().backward()
    return hidden.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("last", [1, 2])
def test_states_and_gradients_are_those_of_each_text_by_itself(name: str, last: int) -> None:
    model = model_of(CONFIGS[name])
    alone = result(model, last, None)
    assert same(alone, result(model, last, OF_PROMPT), 1e-9)
    assert same(alone, result(model, last, OF_PROMPT, checkpointing=True), 1e-9)
    # The control: other texts, other states.
    model.base_model.embed_tokens.weight.data[7] += 0.1
    assert not same(alone, result(model, last, OF_PROMPT), 1e-5)


def test_a_prompt_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = model_of(CONFIGS["llama"]), []
    model.base_model.embed_tokens.register_forward_hook(lambda module, args, out: read.append(args[0].numel()))
    hidden_states(model, *padded(1), False, OF_PROMPT)
    hidden_states(model, *padded(1), False, None)
    with without("prefixes"):
        hidden_states(model, *padded(1), False, OF_PROMPT)
    # 4 + (3 + 4 + 2) + 18 + (2 + 3) + 2, for neither a wanted token nor half a pair is shared; and 7 + 8 + 6 + 20 + 21 + 2.
    assert read == [38, 64, 64]


def test_a_wanted_token_is_never_shared() -> None:
    ids, lengths, wanted = padded(1)
    wanted[:, 1] = True
    tree = branched(ids, lengths, wanted, OF_PROMPT, WIDTH)
    assert tree is None  # one token of each prompt would be all that is saved
    wanted[:, 1], wanted[3:, 9] = False, True
    tree = branched(ids, lengths, wanted, OF_PROMPT, WIDTH)
    assert tree is not None
    assert tree.real.sum(1).tolist() == [13, 8 + 12 + 13, 2]
    assert tree.ids[tree.real][tree.wanted].tolist() == ids[wanted & (torch.arange(ids.shape[1]) < lengths[:, None])].tolist()
    # Rows in any order: what is wanted comes in theirs.
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    tree = branched(ids[order], lengths[order], wanted[order], OF_PROMPT[order], WIDTH)
    assert tree is not None
    real = wanted[order] & (torch.arange(ids.shape[1]) < lengths[order][:, None])
    assert tree.ids[tree.real][tree.wanted].tolist() == ids[order][real].tolist()


def test_long_texts_of_a_short_prompt_stay_apart() -> None:
    ids = torch.arange(4 * 400).view(4, 400)
    ids[:, :60] = torch.arange(60)
    asked = ids, torch.full((4,), 400), torch.zeros(4, 400, dtype=torch.bool), torch.zeros(4, dtype=torch.long)
    # 11 % of all tokens would be saved, and each would look at four times as many places.
    assert branched(*asked, 50) is None
    assert branched(*asked, 100_000) is not None


def test_rows_are_of_one_prompt_where_they_begin_alike() -> None:
    ids = torch.tensor([[5, 6, 1, 2], [5, 6, 3, 0], [5, 7, 1, 2], [5, 6, 4, 4]])
    counted = torch.tensor([[False, False, True, True]] * 3 + [[False, True, True, True]])
    assert same_prompts(ids, counted).tolist() == [0, 0, 1, 2]


def test_texts_of_different_prompts_are_left_as_they_are() -> None:
    assert branched(*padded(1), torch.arange(6), WIDTH) is None
    ids, lengths, wanted = padded(1)
    ids[:, 0] = torch.arange(6)
    assert branched(ids, lengths, wanted, OF_PROMPT, WIDTH) is None
