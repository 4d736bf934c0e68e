"""Extractive question answering: softmax over where the answer begins and ends in a passage (Devlin et al. 2019, 4.2 and 4.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from tunesmith.core.config import Config
from tunesmith.recipes.tunings import classification

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tunesmith.core.records import Example
    from tunesmith.data.task import Task
    from tunesmith.models.load import LM
    from tunesmith.recipes._tune import config as tune_config
    from tunesmith.recipes._tune.heads import Headed
    from tunesmith.recipes._tune.supervised import Supervised

# Those of BERT's own code on SQuAD, apart from the learning rate.
DEFAULTS: dict[str, Any] = {**classification.DEFAULTS, "epochs": 3.0, "max_length": 384}
LEARNING_RATES = classification.LEARNING_RATES
HEAD = "span"
METRICS = ("squad_f1", "squad_em")


class Parameters(Config):
    """How passages are read and answers chosen."""

    doc_stride: int = Field(128, ge=1)
    """a passage longer than max_length is read in windows, each so many tokens after the one before"""
    max_answer_length: int = Field(30, ge=1)
    """longest answer in tokens"""
    n_best: int = Field(20, ge=1)
    """answers kept for each question, with their scores"""
    dropout: float | None = Field(None, ge=0, lt=1)
    """share of units dropped in training; absent = as the encoder was trained (0.1)"""


def supervise(config: tune_config.Config, parameters: Parameters) -> Supervised:
    """Load an encoder with a new head for both ends of an answer, and read the task's rows.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.recipes._tune.heads import open_headed, supervised
    from tunesmith.recipes._tune.rows import require_task

    require_task(config, "passages, questions and answers")
    task = read(config.data, config.skip_bad_rows, {})
    lm, modules = open_headed(config, HEAD, (), parameters.model_dump(include={"dropout"}, exclude_none=True))
    # Where every question has an answer, "none" is never one.
    threshold = 0.0 if any(not task.gold(example) for example in task.splits.train) else None
    lm.model.config.span = {
        **parameters.model_dump(exclude={"dropout"}), "max_length": config.max_length, "null_threshold": threshold,
    }  # fmt: skip
    return supervised(config, headed(lm, task), HEAD, modules)


def read(name: str, skip_bad_rows: bool, saved: Mapping[str, Any]) -> Task:
    """Read a task whose answers are spans of a passage."""
    from tunesmith.data.task import load_task

    return load_task(name, skip_bad_rows=skip_bad_rows)


def headed(lm: LM, task: Task) -> Headed:
    """Return how spans are learned and found."""
    import torch

    from tunesmith.core.registry import METRICS as KNOWN
    from tunesmith.data.collate import Batch
    from tunesmith.data.spans import tuned_threshold
    from tunesmith.models.heads import answer_places, span_logits
    from tunesmith.objectives import span
    from tunesmith.recipes._tune.heads import Headed
    from tunesmith.recipes._tune.spans import SpanReader

    usual = Parameters.model_validate({}).model_dump(exclude={"dropout"})
    usual |= {"max_length": DEFAULTS["max_length"], "null_threshold": None}
    how = lm.model.config.span = {**usual, **(getattr(lm.model.config, "span", None) or {})}
    reader = SpanReader(lm, task, how)
    metrics = task.metrics if task.file.metrics else METRICS
    metric = KNOWN.get(metrics[0]).evaluate

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        assert batch.targets is not None
        ids, lengths, _ = batch.tensors(lm.device)
        targets = batch.targets.to(lm.device).view(-1, 2)
        return span.loss(span_logits(lm, ids, lengths), answer_places(lm, ids, lengths), targets)

    def finish(held_out: Sequence[Example]) -> None:
        """Choose the margin above which an answer is given, by the first metric on validation rows (4.3)."""
        if how["null_threshold"] is None or not held_out:
            return
        found = reader.find(held_out)
        best = [f.text(e.fields["context"]) for e, f in zip(held_out, found, strict=True)]

        def worth(said: Sequence[str]) -> list[float]:
            return [
                max(float(metric([gold], [one])) for gold in task.golds(e)) for e, one in zip(held_out, said, strict=True)
            ]  # fmt: skip

        how["null_threshold"] = tuned_threshold([f.margin for f in found], worth(best), worth([""] * len(best)))

    return Headed(lm, task, metrics, reader.encode, loss_of, reader.answer, finish)
