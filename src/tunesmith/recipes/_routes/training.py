"""What every trained route does: train, save, ask all items, and measure what was forgotten."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import ModuleType
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical, text_hash, write_json
from tunesmith.core.records import Encoded
from tunesmith.core.runs import Run
from tunesmith.core.seeds import derive
from tunesmith.data.encoded_rows import EncodedRows
from tunesmith.evaluate import forgetting
from tunesmith.evaluate.answer import accuracy_on
from tunesmith.recipes._adapt import attach, language_modelling, train, with_answers
from tunesmith.recipes._artefact import save_artefact
from tunesmith.recipes._ladder.climb import Climbed, Workshop
from tunesmith.recipes._memory import require_memory
from tunesmith.recipes._tune.remedies import anchor_of, pool_of, with_fisher, with_replay
from tunesmith.recipes._tune.remedies_config import Remedies
from tunesmith.recipes._tune.wise_ft import check_mixable, mix_weights
from tunesmith.train.fit import Validation
from tunesmith.train.probes import check_training_data
from tunesmith.train.training import Training


def climb_trained(shop: Workshop, title: str, method: tuple[ModuleType, Any], how: Remedies | None = None) -> Climbed:
    """Train by a peft method on the task's rows and measure the result.

    Args:
        how: with remedies against forgetting; None = as the ladder trains.

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
    training, said = _training(shop, title, method, data, how, validation is not None)
    require_memory(training, validation is not None)
    adapted = train(shop.lm, training, run, validation)
    if how and how.wise_ft and validation:
        curve = mix_weights(shop.lm, shop.assignment.model, method, training.parameters, validation, how.wise_ft, shop.folder)
        said.append(f"mixed with the old weights at alpha = {curve.alpha:g}; wise_ft.json beside this route has the curve")
    seconds = time.perf_counter() - start
    save_artefact(
        shop.folder, shop.lm, method, [shop.prompts.prompt(item)[1] for item in shop.validation[:3] or shop.train[:3]], title
    )
    answers = asker.ask(shop.items, title=title)
    after = forgetting.measure(shop.lm, shop.task.name, shop.assignment.guard_rows)
    fitted = adapted.fitted
    notes = [
        f"{fitted.steps} steps on {len(data)} rows ({fitted.tokens:,} tokens, {fitted.supervised_tokens:,} supervised) "
        f"at {fitted.tokens / max(fitted.seconds, 1e-9):,.0f} tokens/s, learning rate {adapted.learning_rate:g}"
    ]
    notes += said
    if fitted.best is not None:
        early = "stopped early; " if fitted.stopped_early else ""
        notes.append(
            f"{early}the weights with the best accuracy on {len(shop.validation)} validation rows ({fitted.best:.3f}) were kept"
        )
    return Climbed(
        draws=[answers.predictions], evaluation_seconds=answers.seconds, prompt_tokens=answers.prompt_tokens,
        latency_ms=asker.latencies(shop.items), seconds=seconds, trained_parameters=adapted.trained_parameters,
        forgetting=forgetting.compare(before, after), notes=notes,
    )  # fmt: skip


def _training(
    shop: Workshop, title: str, method: tuple[ModuleType, Any], data: list[Encoded], how: Remedies | None, validates: bool
) -> tuple[Training, list[str]]:
    """Attach the method, with remedies at work; also returns what to say about them."""
    lm, seed = shop.lm, derive(shop.seed, title)
    loss_of = language_modelling(lm, shop.fit_parameters.activation_checkpointing)
    if how is None:
        return attach(lm, method, data, shop.fit_parameters, seed, loss_of), []
    pool = pool_of(how, lm, lm.context_length, shop.seed)
    rows, said = with_replay(how, EncodedRows(data), pool, shop.seed)
    training = attach(lm, method, rows, how, seed, loss_of)
    training = replace(training, anchor=anchor_of(how, training.parameters))
    if how.wise_ft:
        check_mixable(method, training.parameters, validates)
    return with_fisher(training, lm, pool, shop.folder, [lm.identity, str(lm.dtype), title]), said


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


def _guard_before(shop: Workshop) -> forgetting.Guard:
    key = text_hash(
        canonical([*forgetting.passages(), shop.lm.identity, str(shop.lm.dtype), shop.assignment.guard_rows, shop.task.name])
    )
    path = shop.folder.parent / f"guard-{key}.json"
    if path.is_file():
        return forgetting.Guard(**json.loads(path.read_text(encoding="utf-8")))
    measured = forgetting.measure(shop.lm, shop.task.name, shop.assignment.guard_rows)
    write_json(path, measured.as_dict())
    return measured
