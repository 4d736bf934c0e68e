"""A pre-training about to begin: the model with its loss, its documents, and how well it predicts what is held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch, ChangedRows, micro_batches
from tunesmith.data.masking import Masking, masked_rows
from tunesmith.data.mixture import Mixture
from tunesmith.data.span_corruption import SpanCorruption, span_rows
from tunesmith.models.encoder import load_encoder
from tunesmith.models.fill import masked_logits
from tunesmith.models.lm_loss import summed_loss
from tunesmith.models.load import LM
from tunesmith.models.seq2seq import load_seq2seq, sentinels_of
from tunesmith.models.seq2seq import summed_loss as seq2seq_loss
from tunesmith.objectives import causal_lm, masked_lm
from tunesmith.peft import full
from tunesmith.recipes._models import load, quiet_libraries, use_threads
from tunesmith.recipes._pretrain.config import Config
from tunesmith.recipes._pretrain.rows import Corpus, read_corpus
from tunesmith.train.engines.local import LossOf
from tunesmith.train.training import Training

# A new head on a small encoder needs far more than the 5e-5 of fine-tuning.
_MLM_LEARNING_RATE = 5e-4
# T5's own for fine-tuning; its pre-training began at 1e-2, with another optimizer.
_SPAN_LEARNING_RATE = 1e-3


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
        """Return the mean loss on all held-out rows of the domain."""
        own = [rows for name, rows in self.held_out.items() if name not in self.corpus.outside]
        return _mean(self.training.loss_of, [row for rows in own for row in rows])


def ready(config: Config) -> Ready:
    """Load the model, with a new head if it has none, and read the documents.

    Raises:
        UserError: unusable data, model or settings, named by file, row or key.
    """
    quiet_libraries()
    use_threads(config.threads)
    lm = _model(config)
    if config.max_length > lm.context_length:
        raise UserError(
            f"max_length = {config.max_length}, and {config.model} reads at most {lm.context_length} tokens",
            "Set a smaller --max_length.",
        )
    corpus = read_corpus(config, lm.tokenizer)
    rows, loss_of, learning_rate = _OBJECTIVES[config.objective](config, lm, corpus)
    how = config.model_copy(update={"learning_rate": config.learning_rate or learning_rate})
    train = rows("train", _mixed(config, corpus), corpus.answers)
    held_out = {
        name: rows("held out", held, np.full(len(held), corpus.has_answers(name))) for name, held in corpus.held_out.items()
    }
    lm.model.train()
    training = Training(loss_of, full.attach(lm.model, full.Parameters(), config.seed), train, how, config.seed)
    return Ready(lm, corpus, training, held_out)


def _model(config: Config) -> LM:
    if config.objective == "clm":
        return load(config.model, dtype=config.dtype)
    if config.objective == "span":
        return load_seq2seq(config.model, config.dtype)
    torch.manual_seed(derive(config.seed, "head"))
    return load_encoder(config.model, "masked_lm", dtype=config.dtype, new_head=True)


def _mixed(config: Config, corpus: Corpus) -> Sequence[Encoded]:
    """Return the rows to train on: with replay as many of general text as make its share, and all of the domain an epoch."""
    if not config.replay:
        return corpus.train
    numbers = {"domain": np.flatnonzero(~corpus.general), "general": np.flatnonzero(corpus.general)}
    shares = {"domain": 1 - config.replay, "general": config.replay}
    return Mixture(corpus.train, numbers, shares, round(len(numbers["domain"]) / (1 - config.replay)), config.seed)


# What an objective makes of rows (purpose, rows, which of them are answers), its loss, and its usual learning rate.
_Rows = Callable[[str, Sequence[Encoded], NDArray[np.bool_]], Sequence[Encoded]]
_Made = tuple[_Rows, LossOf, float]


def _mlm(config: Config, lm: LM, corpus: Corpus) -> _Made:
    masking = Masking.of(lm.tokenizer, config.mask_share, config.whole_words)

    def rows(purpose: str, documents: Sequence[Encoded], answers: NDArray[np.bool_]) -> ChangedRows:
        # Replayed text has no answers, and a mixture no fixed places.
        whole = None if isinstance(documents, Mixture) else answers
        return masked_rows(documents, masking, derive(config.seed, purpose), whole)

    return rows, _masked(lm, config), _MLM_LEARNING_RATE


def _clm(config: Config, lm: LM, corpus: Corpus) -> _Made:
    return lambda purpose, documents, answers: documents, _causal(lm, config), full.LEARNING_RATE


def _span(config: Config, lm: LM, corpus: Corpus) -> _Made:
    sentinels = sentinels_of(lm)
    corruption = SpanCorruption(sentinels, lm.tokenizer.eos_token_id, config.mask_share, config.span_length)
    longest = max(int(rows.lengths.max()) for rows in (corpus.train, *corpus.held_out.values()))
    if (spans := corruption.counts(longest)[1]) > len(sentinels):
        raise UserError(
            f"rows of {longest} tokens need {spans} sentinels, and '{lm.name}' has {len(sentinels)}",
            "Set a smaller --max_length, or a larger --span_length.",
        )
    if config.activation_checkpointing:
        lm.model.activation_checkpointing_enable({"use_reentrant": False})

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        return seq2seq_loss(lm.model, *batch.tensors(lm.device), causal_lm.loss)

    return (
        lambda purpose, documents, answers: span_rows(documents, corruption, derive(config.seed, purpose)),
        loss_of,
        _SPAN_LEARNING_RATE,
    )


_OBJECTIVES: dict[str, Callable[[Config, LM, Corpus], _Made]] = {"mlm": _mlm, "clm": _clm, "span": _span}


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
