"""Encoders on a task: rows as a classifier reads them, logits in any number, and training through `fit`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tunesmith.core.encode import framed, token_ids
from tunesmith.core.errors import UserError
from tunesmith.core.progress import Progress
from tunesmith.core.records import Encoded, Example
from tunesmith.core.runs import Run
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch, micro_batches
from tunesmith.data.task import Task
from tunesmith.evaluate.answer import hash_of_ids
from tunesmith.evaluate.results import Prediction
from tunesmith.models import bert
from tunesmith.models.encoder import Head, load_encoder
from tunesmith.models.load import LM
from tunesmith.objectives import classification
from tunesmith.recipes._adapt import train
from tunesmith.recipes._climb import Workshop
from tunesmith.recipes._memory import require_memory
from tunesmith.train.engines.local import LossOf
from tunesmith.train.fit import Validation
from tunesmith.train.parameters import FitParameters
from tunesmith.train.training import Training

_TOKENS_AT_ONCE = 4096


@dataclass(frozen=True)
class Cost:
    """What training took: updates, real tokens, seconds and trained parameters; best = validation accuracy, if measured."""

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    parameters: int = 0
    best: float | None = None

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.steps + other.steps, self.tokens + other.tokens, self.seconds + other.seconds,
            max(self.parameters, other.parameters), other.best,
        )  # fmt: skip


def text_of(task: Task, example: Example) -> str:
    """Return what a classifier reads: the one field that the template uses, or the prompt where it uses several."""
    fields = task.template.fields
    return str(example.fields[fields[0]]) if len(fields) == 1 else task.template.prompt(example.fields)


def encode(task: Task, lm: LM, examples: Sequence[Example], classes: Sequence[int] | None = None) -> list[Encoded]:
    """Encode texts, each a row whose only target is a class, at its first token.

    Args:
        classes: numbers of the classes; None = the gold labels'.

    Raises:
        UserError: a text is longer than the model reads; names the row.
    """
    labels = task.verbalizer.labels if task.verbalizer else []
    opening, closing = framed(lm.tokenizer)
    rows = []
    for number, example in enumerate(examples):
        ids = (*opening, *token_ids(lm.tokenizer, text_of(task, example)), *closing)
        if len(ids) > lm.context_length:
            raise UserError(
                f"{example.where}: the text has {len(ids):,} tokens; {lm.name} reads at most {lm.context_length:,}",
                "Nothing is ever cut: shorten or remove the row.",
            )
        target = classes[number] if classes is not None else labels.index(task.gold(example))
        rows.append(Encoded(ids, (True,) + (False,) * (len(ids) - 1), example.id, (target,)))
    return rows


def class_logits(lm: LM, batch: Batch) -> torch.Tensor:
    """Return [B, L] logits of a classifier."""
    ids, lengths, _ = batch.tensors(lm.device)
    return bert.class_logits(lm.model, ids, lengths)


def in_order(logits_of: Callable[[Batch], torch.Tensor], rows: Sequence[Encoded], title: str = "") -> torch.Tensor:
    """Return [N, L] logits of rows, float32 on the processor, in the order of the rows."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
    found = []
    with torch.inference_mode(), Progress(title, total=len(rows), unit="texts") as progress:
        for batch in micro_batches([rows[i] for i in order], _TOKENS_AT_ONCE):
            found.append(logits_of(batch).float().cpu())
            progress.advance(len(batch.ids))
    back = torch.empty(len(rows), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(rows))
    return torch.cat(found)[back]


def load_fresh(shop: Workshop, encoder: str, head: Head, seed: int) -> LM:
    """Load an encoder in the ladder's precision; a classifier on it is new, and follows from the seed."""
    assert shop.task.verbalizer is not None
    torch.manual_seed(derive(seed, "head"))
    labels = shop.task.verbalizer.labels if head == "classifier" else ()
    return load_encoder(encoder, head, labels, shop.assignment.dtype, new_head=head == "classifier")


def training_of(lm: LM, loss_of: LossOf, rows: Sequence[Encoded], how: FitParameters, seed: int) -> Training:
    """Put together the training of every weight of an encoder."""
    lm.model.train()
    if how.activation_checkpointing:
        lm.model.activation_checkpointing_enable({"use_reentrant": False})
    return Training(loss_of, dict(lm.model.named_parameters()), rows, how, seed)


def fit_encoder(lm: LM, training: Training, run: Run, validation: Validation | None = None) -> Cost:
    """Train an encoder and leave it in evaluation mode."""
    adapted = train(lm, training, run, validation)
    fitted = adapted.fitted
    return Cost(fitted.steps, fitted.tokens, fitted.seconds, adapted.trained_parameters, fitted.best)


def steps_for(shop: Workshop, rows: int, epochs: float, least: int, learning_rate: float) -> FitParameters:
    """Return how the ladder trains, with the number of updates that so many rows need, and a learning rate for encoders."""
    how = shop.fit_parameters
    per_epoch = -(-rows // (how.batch_size * how.gradient_accumulation_steps))
    steps = max(round(per_epoch * epochs), least)
    return how.model_copy(update={"max_steps": min(steps, how.max_steps or steps), "learning_rate": learning_rate})


def class_loss(lm: LM, activation_checkpointing: bool) -> LossOf:
    """Return the loss of a classifier."""
    if activation_checkpointing:
        lm.model.activation_checkpointing_enable({"use_reentrant": False})

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        assert batch.targets is not None
        return classification.loss(class_logits(lm, batch), batch.targets.to(lm.device))

    return loss_of


def validation_of(lm: LM, held_out: Sequence[Encoded]) -> Validation | None:
    """Measure a classifier's accuracy on rows; None without any."""

    def accuracy() -> float:
        predicted = in_order(lambda batch: class_logits(lm, batch), held_out).argmax(-1)
        return float((predicted == torch.tensor([row.targets for row in held_out])[:, 0]).float().mean())

    return Validation(accuracy, "eval_accuracy", larger_is_better=True) if held_out else None


def answer(task: Task, lm: LM, items: Sequence[Example]) -> list[Prediction]:
    """Answer items with a classifier; scores are log-probabilities, nats."""
    assert task.verbalizer is not None
    rows = encode(task, lm, items)
    scores = in_order(lambda batch: class_logits(lm, batch), rows, "test").log_softmax(-1)
    labels = task.verbalizer.labels
    return [
        Prediction(
            item.id, item.where, text_of(task, item), text_of(task, item), hash_of_ids(row.ids),
            dict(zip(labels, logits.tolist(), strict=True)), labels[int(logits.argmax())], task.gold(item),
        )
        for item, row, logits in zip(items, rows, scores, strict=True)
    ]  # fmt: skip


def fine_tune(lm: LM, rows: Sequence[Encoded], held_out: Sequence[Encoded], how: FitParameters, run: Run, seed: int) -> Cost:
    """Fine-tune a classifier on labelled rows; the weights with the best accuracy on held-out rows stay, where there are any.

    Raises:
        UserError: it cannot fit into memory.
    """
    validation = validation_of(lm, held_out)
    training = training_of(lm, class_loss(lm, how.activation_checkpointing), rows, how, seed)
    require_memory(training, validation is not None)
    return fit_encoder(lm, training, run, validation)


def open_run(shop: Workshop, folder: Path) -> Run:
    """Open a folder for one training of a route."""
    return Run(folder, {"fingerprint": shop.assignment.fingerprint}, {"route": shop.assignment.route["name"]})
