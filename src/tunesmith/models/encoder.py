"""Encoders with a head: a masked-language-model head that fills [MASK], or a classifier over the whole text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.files import text_hash
from tunesmith.models import toy
from tunesmith.models.load import LM, choose_dtype, identity_of, open_folder

Head = Literal["masked_lm", "classifier"]


def load_encoder(name: str, head: Head, labels: Sequence[str] = (), dtype: str = "fp32", new_head: bool = False) -> LM:
    """Load an encoder by embedded name ("minilm"), toy name ("toy-bert"), local directory or hub id.

    Args:
        head: what stands on the encoder. labels: of a classifier, in the order of its outputs.
        dtype: encoders are small, and the default trains them without rounding.
        new_head: accept a directory without weights for the head, which then is new (seeded by torch's generator) and has
            to be trained. The decoder of a masked-language-model head is the embedding table, transposed.

    Raises:
        UserError: no such model, no encoder, or no weights for its head where `new_head` is False.
    """
    precision = choose_dtype(dtype)
    if name in toy.NAMES:
        model, tokenizer = toy.build(name)
        folder, identity = None, text_hash("toy", name)
        trained = type(model).__name__.endswith("ForMaskedLM")
        if not trained or not tokenizer.mask_token:
            raise UserError(f"'{name}' is not an encoder", "Use minilm or toy-bert.")
        if head == "classifier":
            model = _toy_classifier(model, labels)
    else:
        folder, tokenizer = open_folder(name)
        identity = identity_of(folder)
        model = _weights(name, folder, head, labels, precision, new_head)
    if tokenizer.mask_token_id is None and head == "masked_lm":
        raise UserError(f"the tokenizer of '{name}' has no mask token", "Use an encoder of the BERT family, for example minilm.")
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return LM(model.to(device=place, dtype=precision).eval(), tokenizer, name, identity)


def _toy_classifier(model: Any, labels: Sequence[str]) -> Any:
    from transformers import BertForSequenceClassification

    config = model.config
    config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        classifier = BertForSequenceClassification(config)
    classifier.bert.load_state_dict(model.bert.state_dict(), strict=False)
    return classifier


def _weights(name: str, folder: str, head: Head, labels: Sequence[str], precision: torch.dtype, new_head: bool) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

    options: dict[str, Any] = {}
    kind: Any = AutoModelForMaskedLM
    if head == "classifier":
        kind = AutoModelForSequenceClassification
        if labels:
            options = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    try:
        model, info = kind.from_pretrained(
            folder, dtype=precision, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"'{name}' cannot be loaded as an encoder: {str(error).splitlines()[0]}") from error
    if info["missing_keys"] and not new_head:
        lacking = sorted(info["missing_keys"])
        raise UserError(
            f"'{name}' has no trained {head.replace('_', '-')} head ({lacking[0]} is missing); its answers would be random",
            f"Train one first: tunesmith pretrain DATA --model {name} --objective mlm." if head == "masked_lm" else "",
        )
    return model
