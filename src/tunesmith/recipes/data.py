"""Look at data before training on it: format, mapping, lengths, duplicates, balance, leakage, and what would count."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.errors import UserError, unknown
from tunesmith.core.records import BadRow, Encoded, Example, Preference
from tunesmith.data import check as x_ray
from tunesmith.data import check_text, formats, preferences
from tunesmith.data._templates import is_jinja, lint, rendered_rows, unused_fields
from tunesmith.data.task import Task, answer_field, embedded_tasks, load_task, names_task
from tunesmith.recipes._judgements import JudgementCheck, lines, longest_text, verdicts
from tunesmith.recipes._judgements import check as judgement_check
from tunesmith.recipes._ladder.estimates import check_model
from tunesmith.recipes._samples import sample

POSITIONAL = ("action", "what")
EXAMPLES = (
    "tunesmith data check rows.jsonl",
    "tunesmith data check mine.yaml --max_length 512",
    "tunesmith data check pairs.jsonl --test held_out.jsonl",
)


class Config(BaseConfig):
    """Settings of `tunesmith data`."""

    action: Literal["check"]
    """check = the x-ray"""
    what: str
    """a file of rows, an embedded task or a task YAML"""
    test: str | None = None
    """another file of rows, none of which should stand in the first"""
    map: dict[str, str] = {}
    """columns of a file by the names of its convention (--map.prompt question)"""
    model: str = "smollm2"
    """whose tokens are counted"""
    max_length: int | None = Field(None, ge=1)
    """count rows longer than this many tokens"""
    samples: int = Field(2, ge=0)
    """rows shown as the model reads them; what counts in the loss stands out"""


def run(config: Config) -> dict[str, Any]:
    """X-ray a file or a task; bad rows are part of the answer and never a traceback.

    Raises:
        UserError: no such file or task.
    """
    path = Path(config.what)
    if not names_task(config.what) and not path.suffix and not path.exists():
        raise unknown("task", config.what, embedded_tasks())
    check_model(config.model)
    from tunesmith.models.load import load_tokenizer
    from tunesmith.recipes._models import quiet_libraries

    quiet_libraries()
    tokenizer = load_tokenizer(config.model)
    if names_task(config.what) and (config.test or config.map):
        raise UserError("--test and --map are for a file of rows", "A task's YAML names its test file and maps its columns.")
    if names_task(config.what):
        checked, encoded = _task(config, tokenizer)
        judged: dict[str, JudgementCheck] = {}
    else:
        checked, encoded, judged = _file(config, path, tokenizer)
    return {
        "status": "done",
        **x_ray.as_dict(checked),
        "judgements": {name: one.as_dict() for name, one in judged.items()},
        "text": check_text.render(checked) + "".join(_judged_text(name, one) for name, one in judged.items()),
        "samples": [sample(tokenizer, e) for e in encoded],
    }


def render(report: dict[str, Any]) -> str:
    """Return the x-ray and the samples, coloured on a terminal and marked elsewhere."""
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    on, off = ("\033[1;32m", "\033[0m") if coloured else ("«", "»")
    shown = ["".join(f"{on}{t}{off}" if counts else t for t, counts in sample) for sample in report["samples"]]
    legend = f"What the model reads; what it learns to say is {f'{on}green{off}' if coloured else f'in {on}marks{off}'}:"
    return "\n\n".join([report["text"].rstrip("\n"), *([legend] if shown else []), *shown])


def _task(config: Config, tokenizer: Any) -> tuple[x_ray.DataCheck, list[Encoded]]:
    from tunesmith.data.prompts import Prompts

    task = load_task(config.what, skip_bad_rows=True)
    prompts = Prompts(task, tokenizer)
    checked = x_ray.check(
        task.name, _splits(config, task), text_of=lambda e: task.template.prompt(e.fields), label_of=task.gold,
        tokens_of=lambda e: len(prompts.training(e)), max_length=config.max_length,
    )  # fmt: skip
    said = lint(task.file.texts, task.verbalizer)
    if not task.file.data.source:
        answer = answer_field(task.file, task.splits.train[0].fields)
        unused = ", ".join(map(repr, unused_fields(task.file.texts.values(), task.splits.train, answer)))
        said += [f"no template uses {unused}"] if unused else []
    checked = replace(checked, warnings=(*checked.warnings, *said))
    return checked, [prompts.training(e) for e in task.splits.train[: config.samples]]


def _splits(config: Config, task: Task) -> dict[str, x_ray.Rows]:
    """The files as they are, leakage included; an embedded source has no files, so its splits are looked at."""
    if task.file.data.source:
        return {name: (getattr(task.splits, name), [], None) for name in ("train", "validation", "test")}
    data, folder = task.file.data, Path(config.what).parent
    files = {name: folder / path for name in ("train", "validation", "test") if (path := getattr(data, name))}
    return {name: _rows(path, task) for name, path in files.items()}


def _rows(path: Path, task: Task) -> x_ray.Rows:
    examples, bad, sniffed = formats.read(path, skip_bad_rows=True, mapping=task.file.data.map or None, own_names=True)
    known = {row.where for row in bad}
    # Rows the reader takes and the task cannot use: a field the template needs is missing, a label is no choice.
    unfit = {row.where: row for row in task.splits.bad if row.where not in known}
    bad += [unfit[e.where] for e in examples if e.where in unfit]
    good = [e for e in examples if e.where not in unfit]
    if is_jinja(task.file.template):
        rendered, _ = rendered_rows(task.file.texts, task.file.answer_choices, good)
        good = [row for row in rendered if isinstance(row, Example)]
    return good, bad, sniffed


def _file(config: Config, path: Path, tokenizer: Any) -> tuple[x_ray.DataCheck, list[Encoded], dict[str, JudgementCheck]]:
    sniffed = formats.sniff(path, config.map or None)
    encode = _encoder(path, sniffed.convention, tokenizer)

    def tokens(example: Example) -> int:
        return len(
            encode(example)
            or tokenizer(longest_text(example.fields) or x_ray.text_of(example), add_special_tokens=False).input_ids
        )

    paths = {"rows": path} | ({"test": Path(config.test)} if config.test else {})
    files: dict[str, x_ray.Rows] = {}
    judged: dict[str, JudgementCheck] = {}
    said: list[str] = []
    before: list[Preference] = []
    if sniffed.convention == "columns":
        said.append(
            f"the columns {', '.join(formats.columns(sniffed))} follow no convention: say what they are with --map.prompt COLUMN "
            "and so on (docs/tasks.md, docs/methods/preferences.md), or with a task's YAML"
        )
    for name, file in paths.items():
        examples, bad, found = formats.read(file, skip_bad_rows=True, mapping=config.map or None)
        files[name] = examples, bad, found
        if found.convention in preferences.CONVENTIONS:
            files[name] = examples, (unusable := list[BadRow]()), found
            judgements, _ = preferences.judgements(found, unusable)
            judged[name] = judgement_check(judgements, before)
            said += [f"{name}: {sentence}" for sentence in verdicts(judged[name], path.name)]
            before = judgements
    checked = x_ray.check(path.name, files, tokens_of=tokens, max_length=config.max_length)
    checked = replace(checked, verdicts=(*said, *checked.verdicts))
    return checked, [row for row in map(encode, files["rows"][0][: config.samples]) if row], judged


def _judged_text(name: str, checked: JudgementCheck) -> str:
    return f"\nJudgements ({name})\n" + "".join(f"  {line}\n" for line in lines(checked))


def _encoder(path: Path, convention: str, tokenizer: Any) -> Callable[[Example], Encoded | None]:
    """Return what makes a training row of an example; None for one that cannot be trained on as it is."""
    from tunesmith.data.prompts import Prompts
    from tunesmith.recipes._tune.rows import encode_row

    make: Callable[[Example], Encoded]
    if convention == "text_label":
        try:
            make = Prompts(load_task(str(path), skip_bad_rows=True), tokenizer).training
        except UserError:  # too few labels or rows for a task, which the x-ray says
            return lambda example: None
    elif convention in ("messages", "sharegpt", "alpaca", "prompt_completion"):
        make = lambda example: encode_row(tokenizer, example)  # noqa: E731
    else:
        return lambda example: None

    def encode(example: Example) -> Encoded | None:
        try:
            return make(example)
        except UserError:  # reported with its reason when it is trained on
            return None

    return encode
