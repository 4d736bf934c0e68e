"""A pre-training about to begin: the model with its loss, its documents, and how well it predicts what is held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch, micro_batches
from tunesmith.data.masking import MaskedRows, Masking
from tunesmith.models.encoder import load_encoder
from tunesmith.models.fill import masked_logits
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM
from tunesmith.objectives import causal_lm, masked_lm
from tunesmith.peft import full
from tunesmith.recipes._models import load, quiet_libraries, use_threads
from tunesmith.recipes._pretrain_config import Config
from tunesmith.recipes._pretrain_rows import Corpus, read_corpus
from tunesmith.train.engines.local import LossOf
from tunesmith.train.training import Training

# A new head on a small encoder needs far more than the 5e-5 of fine-tuning.
_MLM_LEARNING_RATE = 5e-4


@dataclass(frozen=True)
class Ready:
    """A model, its documents and its loss.

    Attributes:
        held_out: source -> rows to measure on, the same hidden tokens every time.
    """

    lm: LM
    corpus: Corpus
    training: Training
    held_out: dict[str, Sequence[Encoded]]

    def losses(self) -> dict[str, float]:
        """Return source -> mean loss on its held-out rows, nats per predicted token."""
        self.lm.model.eval()
        return {name: _mean(self.training.loss_of, rows) for name, rows in self.held_out.items()}

    def loss(self) -> float:
        """Return the mean loss on all held-out rows."""
        return _mean(self.training.loss_of, [row for rows in self.held_out.values() for row in rows])


def ready(config: Config) -> Ready:
    """Load the model, with a new head if it has none, and read the documents.

    Raises:
        UserError: unusable data, model or settings, named by file, row or key.
    """
    quiet_libraries()
    use_threads(config.threads)
    if config.objective == "clm":
        lm = load(config.model, dtype=config.dtype)
    else:
        torch.manual_seed(derive(config.seed, "head"))
        lm = load_encoder(config.model, "masked_lm", dtype=config.dtype, new_head=True)
    if config.max_length > lm.context_length:
        raise UserError(
            f"max_length = {config.max_length}, and {config.model} reads at most {lm.context_length} tokens",
            "Set a smaller --max_length.",
        )
    corpus = read_corpus(config, lm.tokenizer)
    if config.objective == "clm":
        return _with(config, lm, corpus, corpus.train, corpus.held_out, full.LEARNING_RATE)
    masking = Masking.of(lm.tokenizer, config.mask_share, config.whole_words)
    train = MaskedRows(corpus.train, masking, derive(config.seed, "train"), corpus.answers)
    held_out = {
        name: MaskedRows(rows, masking, derive(config.seed, "held out"), np.full(len(rows), corpus.has_answers(name)))
        for name, rows in corpus.held_out.items()
    }
    return _with(config, lm, corpus, train, held_out, _MLM_LEARNING_RATE)


def _with(config: Config, lm: LM, corpus: Corpus, train: Sequence[Encoded], held_out: Any, learning_rate: float) -> Ready:
    how = config.model_copy(update={"learning_rate": config.learning_rate or learning_rate})
    loss_of = _masked(lm, config) if config.objective == "mlm" else _causal(lm, config)
    lm.model.train()
    training = Training(loss_of, full.attach(lm.model, full.Parameters(), config.seed), train, how, config.seed)
    return Ready(lm, corpus, training, dict(held_out))


def _masked(lm: LM, config: Config) -> LossOf:
    if config.activation_checkpointing:
        lm.model.activation_checkpointing_enable({"use_reentrant": False})

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        assert batch.targets is not None
        return masked_lm.loss(masked_logits(lm.model, *batch.tensors(lm.device)), batch.targets.to(lm.device))

    return loss_of


def _causal(lm: LM, config: Config) -> LossOf:
    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        return summed_loss(lm.model, *batch.tensors(lm.device), causal_lm.loss, config.activation_checkpointing)

    return loss_of


def _mean(loss_of: LossOf, rows: Sequence[Encoded]) -> float:
    total = count = 0.0
    with torch.inference_mode():
        for batch in micro_batches(list(rows), 2048):
            total += float(loss_of(batch)[0])
            count += len(batch.targets) if batch.targets is not None else int(batch.loss_mask[:, 1:].sum())
    return total / max(count, 1)
