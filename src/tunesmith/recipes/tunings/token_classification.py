"""Token classification: a tag for every word, from the state of its first sub-token, softmax(W T_i) (Devlin et al. 2019, 5.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field

from tunesmith.core.config import Config
from tunesmith.recipes.tunings import classification

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tunesmith.core.records import Encoded, Example
    from tunesmith.data.task import Task
    from tunesmith.evaluate.results import Prediction
    from tunesmith.models.load import LM
    from tunesmith.recipes._tune import config as tune_config
    from tunesmith.recipes._tune.heads import Headed
    from tunesmith.recipes._tune.supervised import Supervised

DEFAULTS: dict[str, Any] = {**classification.DEFAULTS, "batch_size": 16}
LEARNING_RATES = classification.LEARNING_RATES
HEAD = "tokens"
METRICS = ("entity_f1",)


class Parameters(Config):
    """How the head stands on the encoder."""

    dropout: float | None = Field(None, ge=0, lt=1)
    """share of units dropped in training, in the encoder and before the head; absent = as the encoder was trained (0.1)"""


def supervise(config: tune_config.Config, parameters: Parameters) -> Supervised:
    """Load an encoder with a new head for the tags of the training rows, and read the task's rows.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.recipes._tune.heads import open_headed, supervised
    from tunesmith.recipes._tune.rows import require_task

    require_task(config, "tokens and tags")
    task = read(config.data, config.skip_bad_rows, {})
    tags = sorted({tag for example in task.splits.train for tag in sentence_of(task, example)[1]})
    lm, modules = open_headed(config, HEAD, tags, parameters.model_dump(exclude_none=True))
    return supervised(config, headed(lm, task), HEAD, modules)


def read(name: str, skip_bad_rows: bool, saved: Mapping[str, Any]) -> Task:
    """Read a task whose answers are a tag for every word."""
    from tunesmith.data.task import load_task

    return load_task(name, skip_bad_rows=skip_bad_rows)


def sentence_of(task: Task, example: Example) -> tuple[list[str], list[str]]:
    """Return a row's words and their tags.

    Raises:
        UserError: there are not as many of one as of the other; names the row.
    """
    from tunesmith.core.errors import UserError
    from tunesmith.data.encoder_rows import texts_of

    words, tags = " ".join(texts_of(task, example)).split(), task.gold(example).split()
    if len(words) != len(tags):
        raise UserError(
            f"{example.where}: there are {len(words):,} words and {len(tags):,} tags; every word needs one tag",
            "Give a list 'tokens' and a list 'tags' of the same length in every row.",
        )
    return words, tags


def headed(lm: LM, task: Task) -> Headed:
    """Return how tags are learned and said."""
    import torch

    from tunesmith.core.encode import encoder_ids, framed, word_ids
    from tunesmith.core.errors import UserError
    from tunesmith.core.records import Encoded
    from tunesmith.data.collate import Batch
    from tunesmith.evaluate.answer import hash_of_ids
    from tunesmith.evaluate.results import Prediction
    from tunesmith.models.heads import word_logits
    from tunesmith.objectives import token_classification
    from tunesmith.recipes._tune.encoder import by_batch, check_length
    from tunesmith.recipes._tune.heads import Headed, saved_labels

    number = {tag: at for at, tag in enumerate(saved_labels(lm))}

    def encode(example: Example) -> list[Encoded]:
        words, tags = sentence_of(task, example)
        if unseen := [tag for tag in tags if tag not in number]:
            raise UserError(
                f"{example.where}: the tag '{unseen[0]}' is none of those of the training rows: {', '.join(number)}",
                "Add training rows with it, or leave the row out: --skip_bad_rows.",
            )
        pieces = word_ids(lm.tokenizer, words)
        inner = tuple(i for piece in pieces for i in piece)
        firsts = [at == 0 for piece in pieces for at in range(len(piece))]
        ids = encoder_ids(lm.tokenizer, inner)
        check_length(lm, example, ids)
        before = len(framed(lm.tokenizer)[0])
        mask = (False,) * before + tuple(firsts) + (False,) * (len(ids) - before - len(inner))
        return [Encoded(ids, mask, example.id, tuple(number[tag] for tag in tags))]

    def logits_of(batch: Batch) -> torch.Tensor:
        return word_logits(lm, *batch.tensors(lm.device))

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        assert batch.targets is not None
        return token_classification.loss(logits_of(batch), batch.targets.to(lm.device))

    def answer(items: Any, title: str) -> list[Prediction]:
        rows = [row for item in items for row in encode(item)]
        tags, said = list(number), [""] * len(rows)
        for of, batch in by_batch(rows, title):
            best = logits_of(batch).argmax(-1).tolist()
            for row, count in zip(of, batch.loss_mask.sum(1).tolist(), strict=True):
                said[row], best = " ".join(tags[tag] for tag in best[:count]), best[count:]
        shown = [" ".join(sentence_of(task, item)[0]) for item in items]
        return [
            Prediction(item.id, item.where, text, text, hash_of_ids(row.ids), {}, one, task.gold(item))
            for item, row, one, text in zip(items, rows, said, shown, strict=True)
        ]

    return Headed(lm, task, task.metrics if task.file.metrics else METRICS, encode, loss_of, answer)
