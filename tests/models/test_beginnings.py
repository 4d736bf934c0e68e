"""Texts of a prompt that is read once have the hidden states and gradients of texts read by themselves."""

from typing import Any

import pytest
import torch
from test_decoder import CONFIGS, model_of, same

from tunesmith.core.levers import without
from tunesmith.models.beginnings import branched
from tunesmith.models.decoder import hidden_states

# Two prompts, of which three and two texts go on, and one by itself; the texts of the first agree in one token more.
TEXTS = (
    [5, 6, 7, 8, 9, 20, 21], [5, 6, 7, 8, 9, 20, 23, 24], [5, 6, 7, 8, 9, 20],
    [*range(30, 48), 1, 2], [*range(30, 48), 3, 4, 5], [60, 61],
)  # fmt: skip
OF_PROMPT = torch.tensor([0, 0, 0, 1, 1, 2])


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
    # 5 + (2 + 3 + 1) + 18 + (2 + 3) + 2, for a wanted token is never shared; and 7 + 8 + 6 + 20 + 21 + 2.
    assert read == [36, 64, 64]


def test_a_wanted_token_is_never_shared() -> None:
    ids, lengths, wanted = padded(1)
    wanted[:, 1] = True
    tree = branched(ids, lengths, wanted, OF_PROMPT)
    assert tree is None  # one token of each prompt would be all that is saved
    wanted[:, 1], wanted[3:, 9] = False, True
    tree = branched(ids, lengths, wanted, OF_PROMPT)
    assert tree is not None
    assert tree.lengths.tolist() == [11, 9 + 11 + 12, 2]
    assert int(tree.wanted.sum()) == int((wanted & (torch.arange(ids.shape[1]) < lengths[:, None])).sum())
    assert tree.ids[tree.wanted].tolist() == ids[wanted & (torch.arange(ids.shape[1]) < lengths[:, None])].tolist()


def test_texts_of_different_prompts_are_left_as_they_are() -> None:
    assert branched(*padded(1), torch.arange(6)) is None
    ids, lengths, wanted = padded(1)
    ids[:, 0] = torch.arange(6)
    assert branched(ids, lengths, wanted, OF_PROMPT) is None
