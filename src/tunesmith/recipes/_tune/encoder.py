"""Encoders on a task: rows as a classifier reads them, logits in any number, and training through `fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.progress import Progress
from tunesmith.core.records import Encoded, Example
from tunesmith.core.runs import Run
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch, micro_batches
from tunesmith.data.encoder_rows import read_ids, texts_of
from tunesmith.data.task import Task
from tunesmith.evaluate.answer import hash_of_ids, shown_text
from tunesmith.evaluate.classify import labels_of
from tunesmith.evaluate.results import Prediction
from tunesmith.models.encoder import Head, load_encoder
from tunesmith.models.heads import text_logits
from tunesmith.models.load import LM
from tunesmith.objectives import classification
from tunesmith.recipes._adapt import train
from tunesmith.recipes._ladder.climb import Workshop
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
    """Return what a classifier reads, as a person would: a text, or the two texts of a pair with a line between."""
    return "\n".join(texts_of(task, example))


def encode(task: Task, lm: LM, examples: Sequence[Example], classes: Sequence[int] | None = None) -> list[Encoded]:
    """Encode texts, each a row whose only target is a class, at its first token.

    Args:
        classes: numbers of the classes; None = the gold labels'.

    Raises:
        UserError: a text is longer than the model reads; names the row.
    """
    labels = task.verbalizer.labels if task.verbalizer else []
    rows = []
    for number, example in enumerate(examples):
        target = classes[number] if classes is not None else labels.index(task.gold(example))
        rows.append(whole_row(lm, example, read_ids(task, lm.tokenizer, example), (target,)))
    return rows


def whole_row(lm: LM, example: Example, ids: tuple[int, ...], targets: tuple[int, ...] | tuple[float, ...]) -> Encoded:
    """Return a row whose targets are of the row as a whole, so that they stand at its first token.

    Raises:
        UserError: it is longer than the model reads; names the row.
    """
    check_length(lm, example, ids)
    return Encoded(ids, (True,) + (False,) * (len(ids) - 1), example.id, targets)


def check_length(lm: LM, example: Example, ids: Sequence[int]) -> None:
    """Check that a row is no longer than the model reads.

    Raises:
        UserError: it is; names the row.
    """
    if len(ids) > lm.context_length:
        raise UserError(
            f"{example.where}: the text has {len(ids):,} tokens; {lm.name} reads at most {lm.context_length:,}",
            "Nothing is ever cut: shorten or remove the row.",
        )


def class_logits(lm: LM, batch: Batch) -> torch.Tensor:
    """Return [B, L] logits of a classifier."""
    ids, lengths, _ = batch.tensors(lm.device)
    return text_logits(lm, ids, lengths)


def by_batch(rows: Sequence[Encoded], title: str = "") -> Iterator[tuple[list[int], Batch]]:
    """Yield rows in batches, longest first, each with the numbers of its rows; nothing is computed for gradients."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]), reverse=True)
    at = 0
    with torch.inference_mode(), Progress(title, total=len(rows), unit="texts") as progress:
        for batch in micro_batches([rows[i] for i in order], _TOKENS_AT_ONCE):
            yield order[at : at + len(batch.ids)], batch
            at += len(batch.ids)
            progress.advance(len(batch.ids))


def in_order(logits_of: Callable[[Batch], torch.Tensor], rows: Sequence[Encoded], title: str = "") -> torch.Tensor:
    """Return [N, L] logits of rows, float32 on the processor, in the order of the rows."""
    numbers, found = list[int](), list[torch.Tensor]()
    for of, batch in by_batch(rows, title):
        numbers += of
        found.append(logits_of(batch).float().cpu())
    logits = torch.cat(found)
    return torch.empty_like(logits).index_copy_(0, torch.tensor(numbers), logits)


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


def class_loss(lm: LM) -> LossOf:
    """Return the loss of a classifier."""

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


def answer(task: Task, lm: LM, items: Sequence[Example], title: str = "", draw: int = 0) -> list[Prediction]:
    """Answer items with a classifier; scores are log-probabilities, nats.

    Raises:
        UserError: its labels are not the task's, or an item is too long.
    """
    labels = labels_of(lm, task)
    rows = encode(task, lm, items)
    logprobs = in_order(lambda batch: class_logits(lm, batch), rows, title).log_softmax(-1)
    return [
        Prediction(
            id=item.id, where=item.where, text=shown_text(task, item), prompt=text_of(task, item),
            prompt_hash=hash_of_ids(row.ids), scores=dict(zip(labels, scores.tolist(), strict=True)),
            predicted=labels[int(scores.argmax())], gold=task.gold(item), draw=draw,
        )
        for item, row, scores in zip(items, rows, logprobs, strict=True)
    ]  # fmt: skip


def fine_tune(lm: LM, rows: Sequence[Encoded], held_out: Sequence[Encoded], how: FitParameters, run: Run, seed: int) -> Cost:
    """Fine-tune a classifier on labelled rows; the weights with the best accuracy on held-out rows stay, where there are any.

    Raises:
        UserError: it cannot fit into memory.
    """
    validation = validation_of(lm, held_out)
    training = training_of(lm, class_loss(lm), rows, how, seed)
    require_memory(training, validation is not None)
    return fit_encoder(lm, training, run, validation)


def open_run(shop: Workshop, folder: Path) -> Run:
    """Open a folder for one training of a route."""
    return Run(folder, {"fingerprint": shop.assignment.fingerprint}, {"route": shop.assignment.route["name"]})
