"""What travels with an adapter beside its own tensors: heads that were trained whole, new tokens and their embeddings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from tunesmith.models.load import LM
from tunesmith.peft._layers import PREFIX, copy_in, is_end, saved


def modules_named(model: Any, ends: Sequence[str]) -> dict[str, torch.nn.Parameter]:
    """Return the parameters of all modules of these names, or whose names end so, by the names they have in the model."""
    modules = [name for name, _ in model.named_modules() if any(is_end(name, end) for end in ends)]
    # Of a tied parameter, both names count.
    every = model.named_parameters(remove_duplicate=False)
    return {n: p for n, p in every if any(n.startswith(f"{module}.") for module in modules)}


def heads_state(lm: LM, heads: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the tensors of heads, and of embeddings whose number of rows has changed since the model was loaded.

    Both have the names that Hugging Face PEFT gives them; an output layer that is the embedding table goes with it.
    """
    tensors = modules_named(lm.model, heads)
    if lm.model.get_input_embeddings().weight.shape[0] != lm.rows_at_first:
        wanted = {id(p) for name in embeddings(lm.model) for p in lm.model.get_submodule(name).parameters()}
        tensors |= {name: p for name, p in lm.model.named_parameters() if id(p) in wanted}
    return {PREFIX + name: saved(p) for name, p in tensors.items()}


def embeddings(model: Any) -> list[str]:
    """Return the names of the embedding table and of the output layer that predicts tokens, if there is one."""
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    return [name for name, module in model.named_modules() if any(module is table for table in tables)]


def load_heads(
    lm: LM, folder: Path, heads: Sequence[str], tensors: dict[str, torch.Tensor], own: Collection[str] = ()
) -> dict[str, torch.nn.Parameter]:
    """Take heads and embeddings out of an adapter's tensors and put them on a model, which gets rows for new tokens first.

    Args:
        tensors: those of a file; what is taken is removed from them.
        own: names of tensors that are the peft method's own, though a head or an embedding table has them too: they stay.

    Returns:
        The parameters of the heads, ready to be trained further.

    Raises:
        UserError: tensors that do not fit the model, or fewer than its heads have.
    """
    tables = {f"{PREFIX}{name}.weight" for name in embeddings(lm.model)} - {*own}
    if rows := max((len(tensors[name]) for name in tables & set(tensors)), default=0):
        _add_tokens(lm, folder, rows)
    trained = modules_named(lm.model, heads)
    named = {PREFIX + name: p for name, p in lm.model.named_parameters(remove_duplicate=False)}
    found = {name: tensor for name, tensor in tensors.items() if name in tables or name.removeprefix(PREFIX) in trained}
    for name in {*found} - {*own}:
        del tensors[name]
    copy_in({name: named[name] for name in {*found, *(PREFIX + name for name in trained)}}, found)
    for parameter in trained.values():
        parameter.requires_grad_(True)
    return trained


def _add_tokens(lm: LM, folder: Path, rows: int) -> None:
    """Give a model's embeddings so many rows, and let its tokenizer know the tokens that the adapter's knows."""
    from transformers import AutoTokenizer

    if rows != lm.rows_at_first:
        lm.model.resize_token_embeddings(rows, mean_resizing=False)
    if (folder / "tokenizer_config.json").is_file():
        theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        known = lm.tokenizer.get_vocab()
        new = [token for _, token in sorted(theirs.added_tokens_decoder.items()) if token.content not in known]
        lm.tokenizer.add_tokens(new)
