"""What every trained route does: train, save, ask all items, and measure what was forgotten."""

from __future__ import annotations

import json
import time
from types import ModuleType
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical, text_hash, write_json
from tunesmith.core.records import Encoded
from tunesmith.core.runs import Run
from tunesmith.core.seeds import derive
from tunesmith.evaluate import forgetting
from tunesmith.evaluate.answer import accuracy_on
from tunesmith.recipes._adapt import attach, language_modelling, train, with_answers
from tunesmith.recipes._artefact import save_artefact
from tunesmith.recipes._climb import Climbed, Workshop
from tunesmith.recipes._memory import require_memory
from tunesmith.train.fit import Validation
from tunesmith.train.probes import check_training_data


def climb_trained(shop: Workshop, title: str, method: tuple[ModuleType, Any]) -> Climbed:
    """Train by a peft method on the task's rows and measure the result.

    The guard set is measured before and after with the same prompts; "before" is shared by all trained routes.

    Raises:
        UserError: a training row is longer than the model reads.
    """
    data = _encoded(shop)
    method = with_answers(method, shop.prompts.answers())
    before = _guard_before(shop)
    asker = shop.asker(trained=True)
    run = Run(shop.folder, {"fingerprint": shop.assignment.fingerprint}, {"route": title})
    start = time.perf_counter()
    measure = lambda: accuracy_on(asker, shop.validation)  # noqa: E731
    validation = Validation(measure, "eval_accuracy", larger_is_better=True) if shop.validation else None
    check_training_data(data, shop.lm.tokenizer, shop.lm.stop_ids)
    how = shop.fit_parameters
    loss_of = language_modelling(shop.lm, how.activation_checkpointing)
    training = attach(shop.lm, method, data, how, derive(shop.seed, title), loss_of)
    require_memory(training, validation is not None)
    adapted = train(shop.lm, training, run, validation)
    seconds = time.perf_counter() - start
    save_artefact(
        shop.folder, shop.lm, method, [shop.prompts.prompt(item)[1] for item in shop.validation[:3] or shop.train[:3]], title
    )
    answers = asker.ask(shop.items, title=title)
    after = forgetting.measure(shop.lm, shop.task, shop.assignment.guard_rows) if before else None
    fitted = adapted.fitted
    notes = [
        f"{fitted.steps} steps on {len(data)} rows ({fitted.tokens:,} tokens, {fitted.supervised_tokens:,} supervised) "
        f"at {fitted.tokens / max(fitted.seconds, 1e-9):,.0f} tokens/s, learning rate {adapted.learning_rate:g}"
    ]
    if fitted.best is not None:
        early = "stopped early; " if fitted.stopped_early else ""
        notes.append(
            f"{early}the weights with the best accuracy on {len(shop.validation)} validation rows ({fitted.best:.3f}) were kept"
        )
    return Climbed(
        draws=[answers.predictions], evaluation_seconds=answers.seconds, prompt_tokens=answers.prompt_tokens,
        latency_ms=asker.latencies(shop.items), seconds=seconds, trained_parameters=adapted.trained_parameters,
        forgetting=forgetting.compare(before, after) if before and after else None, notes=notes,
    )  # fmt: skip


def _encoded(shop: Workshop) -> list[Encoded]:
    rows = [shop.prompts.training(example) for example in shop.train]
    most = shop.lm.context_length
    long = [example for example, row in zip(shop.train, rows, strict=True) if len(row) > most]
    if long:
        others = f" (and {len(long) - 1:,} more rows)" if len(long) > 1 else ""
        raise UserError(
            f"{long[0].where}: the row is longer than the {most:,} tokens that {shop.lm.name} reads{others}",
            "Nothing is ever cut: shorten or remove the row.",
        )
    return rows


def _guard_before(shop: Workshop) -> forgetting.Guard | None:
    key = text_hash(canonical([shop.lm.identity, str(shop.lm.dtype), shop.assignment.guard_rows, shop.task.name]))
    path = shop.folder.parent / f"guard-{key}.json"
    if path.is_file():
        return forgetting.Guard(**json.loads(path.read_text(encoding="utf-8")))
    measured = forgetting.measure(shop.lm, shop.task, shop.assignment.guard_rows)
    if measured:
        write_json(path, measured.as_dict())
    return measured
