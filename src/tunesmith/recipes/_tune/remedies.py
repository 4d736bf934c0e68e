"""Remedies against forgetting at work: replayed rows, and an anchor (L2-SP, EWC) with its Fisher information."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical, text_hash, write_bytes
from tunesmith.core.progress import say
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch
from tunesmith.data.encoded_rows import EncodedRows
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM
from tunesmith.recipes._tune.remedies_config import Remedies
from tunesmith.recipes._tune.replay import mixed, replay_rows
from tunesmith.train.anchor import Anchor
from tunesmith.train.engines.local import LossOf
from tunesmith.train.fisher import fisher_information, sampled
from tunesmith.train.training import Training

_FISHER_ROWS = 64


def pool_of(how: Remedies, lm: LM, longest: int, seed: int) -> EncodedRows | None:
    """Return the rows that replay and EWC need; None where neither is asked for.

    Raises:
        UserError: there are none.
    """
    return replay_rows(how.replay_data, lm, longest, seed) if how.replay or how.ewc else None


def with_replay(how: Remedies, rows: EncodedRows, pool: EncodedRows | None, seed: int) -> tuple[EncodedRows, list[str]]:
    """Return training rows with those replayed, and what to say about it."""
    if pool is None or not how.replay:
        return rows, []
    whole = mixed(rows, pool, how.replay, seed)
    return whole, [f"{len(whole) - len(rows):,} of the {len(whole):,} rows of an epoch are replayed from {how.replay_data}"]


def anchor_of(how: Remedies, parameters: Mapping[str, torch.Tensor], heads: Sequence[str] = ()) -> Anchor | None:
    """Return what holds weights near their start, its Fisher information not measured yet; None where nothing does.

    Args:
        heads: modules that are new; L2-SP's second part, for them, is weight_decay.
    """
    if not how.l2_sp and not how.ewc:
        return None
    new = frozenset(name for name in parameters if any(name.startswith(f"{head}.") for head in heads))
    return Anchor(how.l2_sp, how.ewc, new=new)


def with_fisher(training: Training, lm: LM, pool: EncodedRows | None, folder: Path, of: Sequence[str]) -> Training:
    """Return the training with its Fisher information, measured once and kept in a run's folder.

    Args:
        pool: rows to measure on. folder: where `fisher-HASH.safetensors` goes.
        of: what the weights follow from (the model's identity, precision, peft method).

    Raises:
        UserError: EWC without rows. WorkFailed: the disk could not take what was measured.
    """
    anchor = training.anchor
    if not anchor or not anchor.ewc:
        return training
    if not pool:
        raise UserError("EWC has no rows to measure weights on", "Name some with --replay_data.")
    rows = pool[:_FISHER_ROWS]
    key = text_hash(canonical([*of, training.seed, sorted(anchor.new)]), EncodedRows(rows).fingerprint())[:16]
    path = folder / f"fisher-{key}.safetensors"
    known = _read(path, training.parameters)
    if known is None:
        say(f"EWC: Fisher information of {len(rows)} rows")
        lm.model.eval()
        known = fisher_information(_sampled_loss(lm), training.parameters, rows, derive(training.seed, "ewc"))
        lm.model.train()
        write_bytes(path, save({name: f.cpu() for name, f in known.items()}))
    return replace(training, anchor=replace(anchor, fisher=known))


def _sampled_loss(lm: LM) -> LossOf:
    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        return summed_loss(lm.model, *batch.tensors(lm.device), sampled)

    return loss_of


def _read(path: Path, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """Return what was measured before, unless there is nothing or it is not whole."""
    try:
        known = load_file(path) if path.is_file() else None
    except (OSError, SafetensorError) as error:
        say(f"{path.name} cannot be read and is measured again ({error})")
        return None
    fits = known is not None and {n: t.shape for n, t in known.items()} == {n: p.shape for n, p in parameters.items()}
    return known if fits else None
