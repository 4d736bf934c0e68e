"""Encoder-decoders (T5 and its kind): loading, the loss of what the decoder says, and greedy decoding.

A row needs no form of its own: what does not count in its loss mask is what the encoder reads, what counts is what the decoder
says, so prompt and answer of any decoder's training row are source and target here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.files import text_hash
from tunesmith.core.progress import Progress
from tunesmith.models import toy
from tunesmith.models.lm_loss import Objective
from tunesmith.models.load import LM, choose_dtype, identity_of, open_folder
from tunesmith.models.new_tokens import add_tokens

_TOKENS = 4096
_SENTINELS = [f"<extra_id_{i}>" for i in range(100)]


def load_seq2seq(name: str, dtype: str = "fp32") -> LM:
    """Load an encoder-decoder by toy name ("toy-t5"), local directory or hub id; only safetensors are read.

    Args:
        dtype: T5 was trained in bfloat16 on other hardware; where it is emulated float32 is both faster and safer.

    Raises:
        UserError: no such model, no encoder-decoder, or not all of its weights are there.
    """
    precision = choose_dtype(dtype)
    if name in toy.NAMES:
        model, tokenizer = toy.build(name)
        identity = text_hash("toy", name)
    else:
        folder, tokenizer = open_folder(name)
        model, identity = _weights(name, folder, precision), identity_of(folder)
    start = model.config.is_encoder_decoder and model.generation_config.decoder_start_token_id
    if not model.config.is_encoder_decoder or start is None or tokenizer.eos_token_id is None:
        raise UserError(
            f"'{name}' is not an encoder-decoder",
            "Use a model of T5's kind: toy-t5, a directory or hub id such as google/flan-t5-small.",
        )
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    lm = LM(model.to(device=place, dtype=precision).eval(), tokenizer, name, identity)
    lm.model.requires_grad_(False)
    return lm


def _weights(name: str, folder: str, precision: torch.dtype) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    kind: Any = AutoModelForSeq2SeqLM
    try:
        if not AutoConfig.from_pretrained(folder, trust_remote_code=False).is_encoder_decoder:
            raise UserError(f"'{name}' is not an encoder-decoder", "Use a model of T5's kind, for example toy-t5.")
        model, info = kind.from_pretrained(
            folder, dtype=precision, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"'{name}' cannot be loaded as an encoder-decoder: {str(error).splitlines()[0]}") from error
    if lacking := sorted(info["missing_keys"]):
        raise UserError(
            f"'{name}' lacks {len(lacking)} weights of an encoder-decoder, {lacking[0]} for one; they would be random numbers",
            "Use a model that was trained to write text from text.",
        )
    return model


def sentinels_of(lm: LM) -> tuple[int, ...]:
    """Return the ids of T5's sentinels, <extra_id_0> first; a model that has none gets 100, and has to be trained to use them.

    Raises:
        UserError: its vocabulary cannot be extended.
    """
    known = lm.tokenizer.get_vocab()
    there = [token for token in _SENTINELS if token in known]
    return add_tokens(lm, there or _SENTINELS, whole=True).ids


def summed_loss(
    model: Any, ids: torch.Tensor, lengths: torch.Tensor, loss_mask: torch.Tensor, objective: Objective
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the objective summed over the tokens that the decoder is to say, each from the source and the ones before it.

    Args:
        ids: [B, T], padded on the right: of each row the source, then the target. lengths: [B] real tokens.
        loss_mask: [B, T], True at the target's tokens.
        objective: (logits [N, V], targets [N]) -> (sum, stats).
    """
    places = torch.arange(ids.shape[1], device=ids.device)
    said = loss_mask.sum(1)
    source, attention = _moved(ids, torch.zeros_like(said), lengths - said, places)
    target, real = _moved(ids, lengths - said, said, places)
    # Teacher forcing: at each place the decoder has read the target up to there.
    before = torch.cat([torch.full_like(target[:, :1], model.generation_config.decoder_start_token_id), target[:, :-1]], 1)
    logits = model(input_ids=source, attention_mask=attention.long(), decoder_input_ids=before, use_cache=False).logits
    return objective(logits[real], target[real])


def _moved(
    ids: torch.Tensor, start: torch.Tensor, count: torch.Tensor, places: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut [start, start + count) out of each row: ids padded on the right by 0, and where they are real."""
    length = int(count.max())
    at = places[:length] + start[:, None]
    real = places[:length] < count[:, None]
    return ids.gather(1, at.clamp(max=ids.shape[1] - 1)) * real, real


def greedy(lm: LM, sources: Sequence[tuple[int, ...]], max_new_tokens: int, title: str = "") -> list[tuple[int, ...]]:
    """Return what the decoder says to each source, the likeliest token at every place, without the token that ends it."""
    found: list[tuple[int, ...]] = [()] * len(sources)
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    with torch.inference_mode(), Progress(title, total=len(sources), unit="texts") as progress:
        while order:
            size = max(_TOKENS // len(sources[order[-1]]), 1)
            batch, order = order[-size:], order[:-size]
            lengths = torch.tensor([len(sources[i]) for i in batch])
            ids = torch.zeros(len(batch), int(lengths.max()), dtype=torch.long)
            for row, i in enumerate(batch):
                ids[row, : len(sources[i])] = torch.tensor(sources[i])
            attention = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
            said = lm.model.generate(
                input_ids=ids.to(lm.device), attention_mask=attention.to(lm.device), max_new_tokens=max_new_tokens,
                do_sample=False, num_beams=1,
            )  # fmt: skip
            for i, row in zip(batch, said[:, 1:].tolist(), strict=True):
                end = next((at for at, token in enumerate(row) if token in lm.stop_ids), len(row))
                found[i] = tuple(row[:end])
            progress.advance(len(batch))
    return found
