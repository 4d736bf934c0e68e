"""Encoder-decoders: the loss is that of transformers, greedy decoding is argmax step by step, and rows do not see each other."""

from pathlib import Path

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded
from tunesmith.data.collate import collate
from tunesmith.models import toy
from tunesmith.models.load import LM
from tunesmith.models.seq2seq import greedy, load_seq2seq, sentinels_of, summed_loss
from tunesmith.objectives import causal_lm


@pytest.fixture(scope="module")
def t5() -> LM:
    return load_seq2seq("toy-t5")


def row(source: list[int], target: list[int], name: str = "row") -> Encoded:
    """Source and target end to end; the target counts."""
    return Encoded((*source, *target), (False,) * len(source) + (True,) * len(target), name)


ROWS = [row([70, 71, 72, 1], [80, 1]), row([90, 1], [91, 92, 93, 1]), row([60, 61, 62, 63, 64, 1], [65, 1])]


def loss_of(lm: LM, rows: list[Encoded]) -> float:
    """Summed loss of rows in one batch."""
    with torch.no_grad():
        return float(summed_loss(lm.model, *collate(rows).tensors(lm.device), causal_lm.loss)[0])


def test_the_loss_is_that_of_transformers_row_by_row(t5: LM) -> None:
    theirs = 0.0
    for one in ROWS:
        count = one.counted
        with torch.no_grad():
            mean = t5.model(input_ids=torch.tensor([one.ids[:-count]]), labels=torch.tensor([one.ids[-count:]])).loss
        theirs += float(mean) * count
    assert loss_of(t5, ROWS) == pytest.approx(theirs, abs=1e-3)
    # The control: source and target cut one token off.
    shifted = [Encoded(r.ids, (*r.loss_mask[1:], True), r.example_id) for r in ROWS]
    assert abs(loss_of(t5, shifted) - theirs) > 0.1


def test_rows_of_a_batch_do_not_see_each_other(t5: LM) -> None:
    other = row([33, 34, 35, 36, 37, 38, 39, 1], [40, 1])
    both, alone = loss_of(t5, [ROWS[0], other]), loss_of(t5, [ROWS[0]]) + loss_of(t5, [other])
    assert both == pytest.approx(alone, abs=1e-4)


def test_greedy_decoding_is_the_likeliest_token_again_and_again(t5: LM) -> None:
    sources = [r.ids[: -r.counted] for r in ROWS]
    found = greedy(t5, sources, 5)
    for source, said in zip(sources, found, strict=True):
        ids = [t5.model.generation_config.decoder_start_token_id]
        with torch.no_grad():
            for _ in range(5):
                logits = t5.model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([ids])).logits[0, -1]
                if int(logits.argmax()) in t5.stop_ids:
                    break
                ids.append(int(logits.argmax()))
        assert said == tuple(ids[1:])


def test_a_directory_is_loaded_from_safetensors_alone(t5: LM, tmp_path: Path) -> None:
    t5.model.save_pretrained(tmp_path / "t5")
    toy.byte_tokenizer().save_pretrained(tmp_path / "t5")
    again = load_seq2seq(str(tmp_path / "t5"))
    assert loss_of(again, ROWS) == pytest.approx(loss_of(t5, ROWS), abs=1e-6)
    (tmp_path / "t5/model.safetensors").rename(tmp_path / "t5/pytorch_model.bin")
    with pytest.raises(UserError, match="only pickled weights"):
        load_seq2seq(str(tmp_path / "t5"))


@pytest.mark.parametrize("name", ["toy-llama", "toy-bert"])
def test_other_models_are_no_encoder_decoders(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' is not an encoder-decoder"):
        load_seq2seq(name)


def test_a_decoder_in_a_directory_is_no_encoder_decoder(tmp_path: Path) -> None:
    model, tokenizer = toy.build("toy-llama")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is not an encoder-decoder"):
        load_seq2seq(str(tmp_path))


def test_sentinels_are_those_of_t5_or_new_ones() -> None:
    lm = load_seq2seq("toy-t5")
    new = sentinels_of(lm)
    assert len(new) == len(set(new)) == 100
    assert lm.model.get_input_embeddings().num_embeddings == 362
    assert sentinels_of(lm) == new
