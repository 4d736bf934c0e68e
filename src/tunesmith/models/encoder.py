"""Encoders with a head: one that fills [MASK], or that classifies a whole text, each of its tokens, or a span's two ends."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.files import text_hash
from tunesmith.models import toy
from tunesmith.models.load import LM, choose_dtype, identity_of, open_folder

Head = Literal["masked_lm", "classifier", "tokens", "span"]
# What transformers calls a model with such a head: AutoModelFor..., and the end of its architecture's name.
KINDS: dict[Head, str] = {
    "masked_lm": "MaskedLM", "classifier": "SequenceClassification", "tokens": "TokenClassification", "span": "QuestionAnswering",
}  # fmt: skip
# Transformers makes as many outputs of a span as a configuration names labels.
_ENDS = ("start", "end")
# Beside an adapter: what the model it stands on has for a head.
HEAD_FILE = "head_config.json"
_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "dropout", "attention_dropout")


class _Mean(torch.nn.Module):
    """In the place of a pooler: the mean of all states, for rows without padding; `models/heads.py` leaves padding out."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Average states [B, T, D] -> [B, D]."""
        return states.mean(1)


def load_encoder(name: str, head: Head, labels: Sequence[str] = (), dtype: str = "fp32", new_head: bool = False) -> LM:
    """Load an encoder as `load_headed` does, without a word about which weights are new."""
    return load_headed(name, head, labels, dtype, new_head)[0]


def load_headed(
    name: str, head: Head, labels: Sequence[str] = (), dtype: str = "fp32", new_head: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> tuple[LM, tuple[str, ...]]:  # fmt: skip
    """Load an encoder by embedded name ("minilm"), toy name ("toy-bert"), local directory or hub id.

    Args:
        head: what stands on the encoder. labels: of its outputs; () = those it was saved with.
        dtype: encoders are small, and the default trains them without rounding.
        new_head: accept a directory without weights for the head or with one for other labels; the head then is new (seeded
            by torch's generator) and has to be trained. The decoder of a masked-language-model head is the embedding
            table, transposed.
        settings: of the head: `problem_type` as transformers has it, `pooling` ("mean" in place of BERT's pooler over the
            first token) and `dropout` (share of units dropped anywhere); kept in config.json.

    Returns:
        The model, whose `config.id2label` has the labels in the order of its outputs, and the names of its head's modules
        and of any other whose weights are new.

    Raises:
        UserError: no such model, no encoder, or no weights for its head where `new_head` is False.
    """
    precision, settings = choose_dtype(dtype), dict(settings or {})
    labels = _ENDS if head == "span" else labels
    if name in toy.NAMES:
        model, tokenizer = toy.build(name)
        identity = text_hash("toy", name)
        trained = type(model).__name__.endswith("ForMaskedLM")
        if not trained or not tokenizer.mask_token:
            raise UserError(f"'{name}' is not an encoder", "Use minilm or toy-bert.")
        new = set[str]()
        if head != "masked_lm":
            model, new = _toy_headed(model, head, _options(labels, settings))
    else:
        folder, tokenizer = open_folder(name)
        identity = identity_of(folder)
        model, new = _weights(name, folder, head, labels, precision, new_head, settings)
    if tokenizer.mask_token_id is None and head == "masked_lm":
        raise UserError(f"the tokenizer of '{name}' has no mask token", "Use an encoder of the BERT family, for example minilm.")
    new |= _arranged(name, model, settings)
    new = {module for module in new if ".pooler" not in module or getattr(model.config, "pooling", "") != "mean"}
    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return LM(model.to(device=place, dtype=precision).eval(), tokenizer, name, identity), tuple(sorted(new))


def _options(labels: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a configuration says of a head's outputs."""
    options: dict[str, Any] = {"problem_type": settings["problem_type"]} if "problem_type" in settings else {}
    if labels:
        options |= {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return options


def _toy_headed(model: Any, head: Head, options: Mapping[str, Any]) -> tuple[Any, set[str]]:
    import transformers

    config = model.config
    for key, value in options.items():
        setattr(config, key, value)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        headed = getattr(transformers, f"BertFor{KINDS[head]}")(config)
    missing, _ = headed.bert.load_state_dict(model.bert.state_dict(), strict=False)
    return headed, {f"bert.{key}".rpartition(".")[0] for key in missing}


def _weights(
    name: str, folder: str, head: Head, labels: Sequence[str], precision: torch.dtype, new_head: bool, settings: dict[str, Any]
) -> tuple[Any, set[str]]:
    import transformers
    from safetensors import SafetensorError

    kind: Any = getattr(transformers, f"AutoModelFor{KINDS[head]}")
    try:
        saved = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        options = _options(labels, settings)
        model, info = kind.from_pretrained(
            folder, dtype=precision, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
            ignore_mismatched_sizes=new_head, **options,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UserError(f"'{name}' cannot be loaded as an encoder: {str(error).splitlines()[0]}") from error
    settings.setdefault("pooling", getattr(saved, "pooling", "pooler") if head == "classifier" else "pooler")
    unused = ".pooler." if settings["pooling"] == "mean" else "\0"
    lacking = sorted(key for key in info["missing_keys"] if unused not in key)
    if lacking and not new_head:
        raise UserError(
            f"'{name}' has no trained {head.replace('_', '-')} head ({lacking[0]} is missing); its answers would be random",
            f"Train one first: tunesmith pretrain DATA --model {name} --objective mlm." if head == "masked_lm" else "",
        )
    if not lacking and new_head and "id2label" in options and options["id2label"] != saved.id2label:
        _renew(model)
    return model, {key.rpartition(".")[0] for key in lacking}


def architecture_of(folder: str) -> tuple[str, str]:
    """Return what a saved model is by its config.json: the class ("BertForTokenClassification") and what a classifier's outputs
    mean ("regression", "multi_label_classification"; "" = one of several labels). ("", "") where there is no such file.

    Args:
        folder: a model's directory, or that of an adapter with a head.
    """
    for name in ("config.json", HEAD_FILE):
        try:
            config = json.loads((Path(folder) / name).read_text(encoding="utf-8"))
            kind, problem = str((config.get("architectures") or [""])[0]), str(config.get("problem_type") or "")
        except (OSError, ValueError, AttributeError, LookupError):
            continue
        if kind.endswith(KINDS["classifier"]) and not problem and len(config.get("id2label") or "  ") == 1:
            problem = "regression"  # as transformers takes a single output
        return kind, "" if problem == "single_label_classification" else problem
    return "", ""


def heads_of(model: Any) -> list[str]:
    """Return the names of a model's modules that stand on its encoder and have weights."""
    return [
        n for n, module in model.named_children() if n != model.base_model_prefix and next(module.parameters(), None) is not None
    ]


def _renew(model: Any) -> None:
    """Give a head that was trained for other labels new weights, as BERT begins."""
    with torch.no_grad():
        for head in heads_of(model):
            for parameter in model.get_submodule(head).parameters():
                parameter.normal_(std=model.config.initializer_range) if parameter.ndim > 1 else parameter.zero_()


def _arranged(name: str, model: Any, settings: Mapping[str, Any]) -> set[str]:
    """Set how a model pools and drops out, and return its head's modules.

    Raises:
        UserError: it has no such pooling.
    """
    if settings.get("pooling") == "mean":
        base = model.base_model
        if not isinstance(getattr(model, "classifier", None), torch.nn.Linear) or getattr(base, "pooler", None) is None:
            raise UserError(f"the head of '{name}' does not stand on a pooler that a mean could replace", "Use pooling pooler.")
        base.pooler, model.config.pooling = _Mean(), "mean"
    elif hasattr(model.config, "pooling"):
        model.config.pooling = "pooler"
    dropout = settings.get("dropout")
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
        for key in _DROPOUTS:
            if hasattr(model.config, key):
                setattr(model.config, key, dropout)
    return set(heads_of(model)) if not type(model).__name__.endswith(KINDS["masked_lm"]) else set()
