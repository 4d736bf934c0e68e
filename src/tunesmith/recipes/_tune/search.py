"""`--find_batch_size` and `--find_lr`: settings found by trying, before a training begins."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from tunesmith.core.files import write_json, write_text
from tunesmith.core.progress import say
from tunesmith.evaluate.report.rate_test import write_rate_test
from tunesmith.recipes._tune.config import Config
from tunesmith.train.plan import count_memory
from tunesmith.train.search import find_batch_size, find_lr
from tunesmith.train.training import Training


def with_found_size(config: Config, training: Training, keeps_best: bool) -> Training:
    """Return the training with the micro-batch that was asked to be found; as it is if none was."""
    if not config.find_batch_size:
        return training
    found = find_batch_size(training, count_memory(training, keeps_best), config.max_memory_gb)
    tried = ", ".join(f"{size}: {speed:,.0f}" for size, speed in found.tokens_per_second.items())
    say(f"tokens/s by tokens_per_micro_batch: {tried}; {found.suggestion} is used")
    return replace(training, how=training.how.model_copy(update={"tokens_per_micro_batch": found.suggestion}))


def with_found_rate(config: Config, training: Training, folder: Path) -> Training:
    """Return the training with the learning rate that was asked to be found; a resumed run takes the one it found before.

    Writes `learning_rate.json` and its picture, `learning_rate.html`, into the run's folder.
    """
    if not config.find_lr:
        return training
    record = folder / "learning_rate.json"
    if record.is_file():
        rate = json.loads(record.read_text(encoding="utf-8"))["suggestion"]
    else:
        test = find_lr(training)
        rate = test.suggestion
        write_text(folder / "learning_rate.html", write_rate_test(test.rates, test.losses, test.smoothed, rate, test.diverged))
        write_json(record, asdict(test))
        say(f"learning rate {rate:g} is used; {folder / 'learning_rate.html'} shows why")
    return replace(training, how=training.how.model_copy(update={"learning_rate": rate}))
