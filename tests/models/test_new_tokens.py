"""New tokens: rows beside frozen tables compute what a grown vocabulary computes, and only they are trained."""

import pytest
import torch

from tunesmith.core.encode import token_ids
from tunesmith.core.errors import UserError
from tunesmith.models import lm_loss
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM, load
from tunesmith.models.new_tokens import HeadAndRows, add_tokens
from tunesmith.objectives import causal_lm
from tunesmith.peft import lora

TOKENS = ("_start_", "_delimiter_", "_classify_")


def with_rows(whole: bool) -> tuple[LM, tuple[int, ...], tuple[str, ...]]:
    """A toy with three new tokens, the same rows either way."""
    lm = load("toy-llama")
    torch.manual_seed(3)
    added = add_tokens(lm, TOKENS, whole)
    return lm, added.ids, added.modules


def test_rows_beside_the_tables_are_a_grown_vocabulary() -> None:
    (grown, ids, none), (beside, same_ids, modules) = with_rows(whole=True), with_rows(whole=False)
    assert ids == same_ids == (262, 263, 264)
    assert (none, modules) == ((), ("model.embed_tokens.new",))
    row = torch.tensor([[262, 70, 71, 263, 72, 264]])
    assert torch.allclose(grown.model(row).logits, beside.model(row).logits, atol=1e-5)
    rows = grown.model.get_input_embeddings().weight[262:]
    assert float(rows.std()) == pytest.approx(0.02, rel=0.2)
    # The control: another token in their place is another text.
    assert not torch.allclose(grown.model(row.clamp(max=261)).logits, beside.model(row).logits[..., :265], atol=1e-2)


def test_a_text_cannot_write_a_delimiter() -> None:
    lm, ids, _ = with_rows(whole=False)
    assert not set(ids) & set(token_ids(lm.tokenizer, "a _start_ b"))


@pytest.mark.parametrize("rows_at_once", [1000, 2])
def test_only_the_new_rows_learn_and_they_learn_from_both_sides(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lm, _, _ = with_rows(whole=False)
    monkeypatch.setattr(lm_loss, "_BYTES_OF_LOGITS", rows_at_once * 4 * 265)
    new = lm.model.get_input_embeddings().new.weight
    new.requires_grad_(True)
    row, mask = torch.tensor([[262, 70, 71, 263, 72, 264]]), torch.tensor([[False, True, True, True, True, True]])
    loss, _ = summed_loss(lm.model, row, torch.tensor([6]), mask, causal_lm.loss)
    (gradient,) = torch.autograd.grad(loss, [new])
    plain = torch.nn.functional.cross_entropy(lm.model(row).logits[0, :-1], row[0, 1:], reduction="sum")
    assert loss.item() == pytest.approx(plain.item(), abs=1e-4)
    (wanted,) = torch.autograd.grad(plain, [new])
    assert torch.allclose(gradient, wanted, atol=1e-4)
    # <e> is never read before something that counts: all it learns comes from being predicted.
    assert gradient[2].abs().max() > 1e-3
    assert not lm.model.get_input_embeddings().weight.requires_grad


def test_lora_leaves_the_new_head_alone() -> None:
    lm, _, _ = with_rows(whole=False)
    names = lora.attach(lm.model, lora.Parameters(rank=2), 0)
    assert isinstance(lm.model.get_output_embeddings(), HeadAndRows)
    assert not [name for name in names if "embed" in name or "head" in name]


def test_tokens_that_are_there_stay_as_they_are() -> None:
    lm, ids, _ = with_rows(whole=True)
    before = lm.model.get_input_embeddings().weight.clone()
    assert add_tokens(lm, TOKENS, whole=True).ids == ids
    assert torch.equal(before, lm.model.get_input_embeddings().weight)


def test_a_vocabulary_without_room_is_refused() -> None:
    lm, _, _ = with_rows(whole=False)
    with pytest.raises(UserError, match=r"no room for the new tokens _more_: its tables are TableAndRows, HeadAndRows"):
        add_tokens(lm, ["_more_"], whole=False)
    with pytest.raises(UserError, match=r"its vocabulary has _start_ already"):
        add_tokens(with_rows(whole=True)[0], ["_start_", "_more_"], whole=True)
