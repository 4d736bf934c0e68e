"""Toy models: exact for every text, and always the same."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.core.encode import token_ids
from tunesmith.models import toy

TOKENIZER = toy.byte_tokenizer()


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_text_is_its_bytes_and_comes_back(text: str) -> None:
    ids = token_ids(TOKENIZER, text)
    assert len(ids) == len(text.encode())
    assert TOKENIZER.decode(list(ids)) == text


@pytest.mark.parametrize("name", toy.NAMES)
def test_a_seed_gives_the_same_weights_and_another_gives_others(name: str) -> None:
    state = torch.get_rng_state()
    one, again, other = (toy.build(name, seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[key], again[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)
    assert torch.equal(torch.get_rng_state(), state)
    assert 50_000 < sum(weight.numel() for weight in set(toy.build(name)[0].parameters())) < 200_000
