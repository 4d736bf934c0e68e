"""A decoder as a classifier: rows between learned delimiters, the loss with its auxiliary part, and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from tunesmith.core.encode import token_ids
from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded, Example
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch
from tunesmith.data.inputs import Inputs, shown
from tunesmith.data.task import Task
from tunesmith.evaluate.answer import hash_of_ids
from tunesmith.evaluate.results import Prediction
from tunesmith.models.decoder_classifier import Score, Texts, class_logits, last_hidden, last_hidden_and_lm_loss
from tunesmith.models.load import LM
from tunesmith.models.new_tokens import add_tokens
from tunesmith.objectives import gpt_classification
from tunesmith.recipes._tune.encoder import in_order
from tunesmith.train.engines.local import LossOf
from tunesmith.train.fit import Validation

# As the authors' code calls them; the paper writes <s>, $ and <e>.
DELIMITERS = ("_start_", "_delimiter_", "_classify_")


@dataclass(frozen=True)
class GPT:
    """A decoder with delimiters and a classifier.

    Attributes:
        delimiters: ids of the three. heads: names of the modules that are new.
    """

    lm: LM
    task: Task
    inputs: Inputs
    delimiters: tuple[int, ...]
    heads: tuple[str, ...]

    @classmethod
    def on(cls, lm: LM, task: Task, whole: bool, seed: int, dropout: float) -> GPT:
        """Put delimiters and a classifier on a decoder: those it was saved with, or new ones.

        Args:
            whole: every weight will be trained, so the vocabulary itself grows.

        Raises:
            UserError: the task's inputs do not fit, or the model's vocabulary cannot be extended.
        """
        inputs = Inputs.of(task)
        torch.manual_seed(derive(seed, "head"))
        added = add_tokens(lm, DELIMITERS, whole)
        choice = inputs.kind == "choice"
        model = lm.model
        model.score = Score(1 if choice else len(inputs.labels), model.get_input_embeddings().weight, dropout)
        names = dict(enumerate(["score"] if choice else inputs.labels))
        if model.config.id2label == names:
            _take_up(lm, model.score)
        model.config.id2label, model.config.label2id = names, {name: i for i, name in names.items()}
        # Where transformers' own classifiers look for the last token.
        model.config.pad_token_id = (
            lm.tokenizer.pad_token_id if lm.tokenizer.pad_token_id is not None else lm.tokenizer.eos_token_id
        )
        return cls(lm, task, inputs, added.ids, ("score", *added.modules))

    def encode(self, examples: Sequence[Example]) -> list[Encoded]:
        """Encode rows: <s> part $ part <e> for each of their texts, end to end, with the label as the only target.

        Raises:
            UserError: a row lacks a field, or a text is longer than the model reads; names the row.
        """
        start, between, end = self.delimiters
        rows = []
        for example in examples:
            ids: list[int] = []
            begins: list[bool] = []
            for parts in self.inputs.texts(example):
                text = [start]
                for number, part in enumerate(parts):
                    text += [*([between] if number else []), *token_ids(self.lm.tokenizer, part)]
                text.append(end)
                if len(text) > self.lm.context_length:
                    raise UserError(
                        f"{example.where}: a text has {len(text):,} tokens; {self.lm.name} reads at most "
                        f"{self.lm.context_length:,}", "Nothing is ever cut: shorten or remove the row.",
                    )  # fmt: skip
                begins += [True, *[False] * (len(text) - 1)]
                ids += text
            target = self.inputs.labels.index(self.task.gold(example))
            rows.append(Encoded(tuple(ids), tuple(begins), example.id, (target,)))
        return rows

    def loss(self, lm_weight: float, activation_checkpointing: bool) -> LossOf:
        """Return L2 + lm_weight L1 of a batch, summed over rows."""

        def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
            assert batch.targets is not None
            texts, targets = Texts.of(*batch.tensors(self.lm.device)), batch.targets.to(self.lm.device)
            hidden, lm = (
                last_hidden_and_lm_loss(self.lm.model, texts, activation_checkpointing)
                if lm_weight
                else (last_hidden(self.lm.model, texts, activation_checkpointing), torch.zeros((), device=self.lm.device))
            )
            logits = class_logits(self.lm.model, hidden, texts, self.inputs.kind == "choice")
            return gpt_classification.loss(logits, targets, lm, lm_weight)

        return loss_of

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return [B, L] logits."""
        texts = Texts.of(*batch.tensors(self.lm.device))
        return class_logits(self.lm.model, last_hidden(self.lm.model, texts), texts, self.inputs.kind == "choice")

    def validation(self, held_out: Sequence[Encoded]) -> Validation | None:
        """Measure accuracy on rows; None without any."""

        def accuracy() -> float:
            right = in_order(self.logits, held_out).argmax(-1) == torch.tensor([row.targets for row in held_out])[:, 0]
            return float(right.float().mean())

        return Validation(accuracy, "eval_accuracy", larger_is_better=True) if held_out else None

    def answer(self, items: Sequence[Example], title: str) -> list[Prediction]:
        """Answer items; scores are log-probabilities, nats."""
        rows, labels = self.encode(items), self.inputs.labels
        scores = in_order(self.logits, rows, title).log_softmax(-1)
        found = []
        for item, row, logits in zip(items, rows, scores, strict=True):
            text = shown(self.inputs.texts(item))
            by_label = dict(zip(labels, logits.tolist(), strict=True))
            found.append(
                Prediction(
                    item.id, item.where, text, text, hash_of_ids(row.ids), by_label, labels[int(logits.argmax())],
                    self.task.gold(item),
                )
            )  # fmt: skip
        return found


def _take_up(lm: LM, score: Any) -> None:
    """Copy the classifier that was saved with the model's weights, if there is one."""
    for file in sorted(Path(lm.name).glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            saved = tensors.get_tensor("score.weight") if "score.weight" in tensors.keys() else None  # noqa: SIM118
        if saved is not None and saved.shape == score.weight.shape:
            with torch.no_grad():
                score.weight.copy_(saved)
