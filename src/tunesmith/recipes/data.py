"""Look at data before training on it: format, mapping, lengths, duplicates, balance, leakage, and what would count."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Literal

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.config import read_yaml, validate
from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded, Example
from tunesmith.data import check as x_ray
from tunesmith.data import formats
from tunesmith.data.task import Task, TaskFile, embedded_tasks, load_task

POSITIONAL = ("action", "what")
EXAMPLES = ("tunesmith data check rows.jsonl", "tunesmith data check mine.yaml --max_length 512")


class Config(BaseConfig):
    """Settings of `tunesmith data`."""

    action: Literal["check"]
    """check = the x-ray"""
    what: str
    """a file of rows, an embedded task or a task YAML"""
    model: str = "smollm2"
    """whose tokens are counted"""
    max_length: int | None = None
    """count rows longer than this many tokens"""
    samples: int = 2
    """rows shown token by token; what counts in the loss stands out"""


def run(config: Config) -> dict[str, Any]:
    """X-ray a file or a task; bad rows are part of the answer and never a traceback.

    Raises:
        UserError: no such file or task.
    """
    from tunesmith.models.load import load_tokenizer
    from tunesmith.recipes._models import quiet_libraries

    quiet_libraries()
    tokenizer = load_tokenizer(config.model)
    path = Path(config.what)
    if config.what in embedded_tasks() or path.suffix in (".yaml", ".yml"):
        checked, encoded = _task(config, tokenizer)
    else:
        checked, encoded = _file(config, path, tokenizer)
    return {
        "status": "done",
        **x_ray.as_dict(checked),
        "text": x_ray.render(checked),
        "samples": [_sample(tokenizer, e) for e in encoded],
    }


def render(report: dict[str, Any]) -> str:
    """Return the x-ray and the samples, coloured on a terminal and bracketed elsewhere."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    on, off = ("\033[1;32m", "\033[0m") if coloured else ("«", "»")
    legend = "\nWhat the model reads; what it learns to say is " + (f"{on}green{off}" if coloured else f"in {on}marks{off}") + ":"
    shown = ["".join(f"{on}{t}{off}" if counts else t for t, counts in sample) for sample in report["samples"]]
    return "\n".join([report["text"], *([legend] if shown else []), *(f"\n{s}" for s in shown)])


def _task(config: Config, tokenizer: Any) -> tuple[x_ray.DataCheck, list[Encoded]]:
    from tunesmith.data.prompts import Prompts

    task = load_task(config.what, skip_bad_rows=True)
    prompts = Prompts(task, tokenizer)
    checked = x_ray.check(
        task.name, _splits(config, task), text_of=lambda e: task.template.prompt(e.fields), label_of=task.gold,
        tokens_of=lambda e: len(prompts.training(e)), max_length=config.max_length,
    )  # fmt: skip
    return checked, [prompts.training(e) for e in task.splits.train[: config.samples]]


def _splits(config: Config, task: Task) -> dict[str, x_ray.Rows]:
    """The files as they are, leakage included; an embedded source has no files, so its splits are looked at."""
    if task.file.data.source:
        return {name: (getattr(task.splits, name), [], None) for name in ("train", "validation", "test")}
    file = validate(TaskFile, read_yaml(Path(config.what)), config.what)
    names = {"train": file.data.train, "validation": file.data.validation, "test": file.data.test}
    folder = Path(config.what).parent
    return {k: formats.read(folder / v, skip_bad_rows=True, mapping=file.data.map or None) for k, v in names.items() if v}


def _file(config: Config, path: Path, tokenizer: Any) -> tuple[x_ray.DataCheck, list[Encoded]]:
    from tunesmith.recipes._rows import encode_row

    examples, bad, sniffed = formats.read(path, skip_bad_rows=True)

    def tokens(example: Example) -> int:
        return len(tokenizer(x_ray.text_of(example), add_special_tokens=False).input_ids)

    checked = x_ray.check(path.name, {"rows": (examples, bad, sniffed)}, tokens_of=tokens, max_length=config.max_length)
    trainable = sniffed.convention in ("messages", "sharegpt", "alpaca", "prompt_completion")
    encoded = []
    for example in examples[: config.samples] if trainable else []:
        try:
            encoded.append(encode_row(tokenizer, example))
        except UserError:  # a row that cannot be encoded is reported when it is trained on, with the reason
            continue
    return checked, encoded


def _sample(tokenizer: Any, encoded: Encoded) -> list[tuple[str, bool]]:
    """Return runs of text and whether they count."""
    runs: list[tuple[list[int], bool]] = []
    for token, counts in zip(encoded.ids, encoded.loss_mask, strict=True):
        if not runs or runs[-1][1] != counts:
            runs.append(([], counts))
        runs[-1][0].append(token)
    return [(tokenizer.decode(ids), counts) for ids, counts in runs]
