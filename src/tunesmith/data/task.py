"""A task: rows + template + choices + metrics, written by a user as one YAML file beside the data.

The same object gives training rows, evaluation items, the few-shot pool and (later) an RL reward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tunesmith.core.config import read_yaml, validate
from tunesmith.core.errors import UserError, unknown
from tunesmith.core.files import canonical, text_hash
from tunesmith.core.records import BadRow, Example
from tunesmith.core.registry import METRICS, SOURCES
from tunesmith.data import _annotations, _templates, formats
from tunesmith.data._readers import RowProblem, excerpt
from tunesmith.data._split import split
from tunesmith.data._task_file import DataSection, TaskFile
from tunesmith.data.cloze import Pattern
from tunesmith.data.sources import _bigbench
from tunesmith.data.template import Template
from tunesmith.data.verbalizer import Verbalizer

_TASKS = Path(__file__).parent / "tasks"
_MOST_LABELS = 200
_ANSWERS = ("answer", "completion", "output", "target", "label", "tags", "labels", "answers")
# What a file of rows without a YAML asks, by its convention.
_PLAIN = {
    "text_label": {"template": "{text}\nLabel: {answer}", "choices": "labels"},
    "text_labels": {"template": "{text}\nLabels: {answer}", "answer": "labels"},
    "token_tags": {"template": "{tokens}\nTags: {answer}", "answer": "tags"},
    "span_answers": {"template": "{context}\nQuestion: {question}\nAnswer: {answer}", "answer": "answers"},
}


@dataclass(frozen=True)
class Splits:
    """A task's rows, ready to use, and what was left out on the way."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    bad: list[BadRow] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """A task whose template, verbalizer and metrics have been checked.

    Attributes:
        template: what fills a prompt, the first of `templates` (name -> template).
        verbalizer: None for a generation task.
    """

    file: TaskFile
    template: Template
    verbalizer: Verbalizer | None
    metrics: tuple[str, ...]
    splits: Splits
    templates: Mapping[str, Template] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The task's name."""
        return self.file.name

    @property
    def patterns(self) -> list[Pattern]:
        """The task's cloze prompts."""
        return [Pattern(text) for text in self.file.patterns or [f"{self.template.text.rstrip()}."]]

    def gold(self, example: Example) -> str:
        """Return the gold label, or the gold text of a generation task.

        Raises:
            UserError: the row has no answer.
        """
        return _gold(self.file, example)

    def golds(self, example: Example) -> tuple[str, ...]:
        """Return every answer that counts as right, `gold` first."""
        name = answer_field(self.file, example.fields)
        return _annotations.said(name, example.fields[name]) or (self.gold(example),)

    def answer(self, example: Example) -> str:
        """Return the words to say for the gold answer: the label's first word, or the gold text."""
        gold = self.gold(example)
        return self.verbalizer.words[gold][0] if self.verbalizer else gold

    @property
    def template_hash(self) -> str:
        """Hash of everything that shapes a prompt and how answers become labels."""
        keys = {"template", "patterns", "instruction", "separator", "chat", "aggregate", "normalise"}
        keys |= {key for key in ("templates", "answer_choices") if getattr(self.file, key) is not None}
        return text_hash(canonical([self.file.model_dump(include=keys), self.verbalizer and self.verbalizer.words]))

    def with_template(self, name: str) -> Task:
        """Return the same task asked by another of its templates."""
        return replace(self, file=self.file.model_copy(update={"template": self.file.texts[name]}), template=self.templates[name])


def load_task(name: str, *, skip_bad_rows: bool = False, answer: str | None = None) -> Task:
    """Load an embedded task by name, a user's by its YAML file, a plain file of rows, or `bigbench:TASK`.

    Args:
        answer: field to take as the answer, as it is, without choices; "" = the task's own field. None = as the task says.

    Raises:
        UserError: no such task or file, an unknown key, a template that does not fit the rows, or bad rows
            (unless `skip_bad_rows`).
    """
    embedded = {f.stem: f for f in _TASKS.glob("*.yaml")}
    path = embedded.get(name, Path(name))
    if name.startswith(_bigbench.PREFIX):
        file = validate(TaskFile, _bigbench.task(name), name)
    elif path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise UserError(f"there is no task file '{name}'", "Check the path.")
        file = validate(TaskFile, read_yaml(path), f"task {path.name}")
    elif path.is_file():
        file = _task_of_rows(path)
    else:
        raise unknown("task", name, embedded) if "/" not in name and "." not in name else UserError(f"there is no file '{name}'")
    if answer is not None:
        own = file.answer or ("label" if file.choices is not None else None)
        kept = file.metrics if file.choices is None and answer in ("", own) else []
        file = file.model_copy(update={"answer": answer or own, "choices": None, "metrics": kept})
    return _build(file, path.parent, skip_bad_rows)


def record_of(task: Task) -> dict[str, Any]:
    """Return what asks a task's questions without its rows: template, choices, and how they are read."""
    keys = {"name", "instruction", "separator", "chat", "aggregate", "normalise", "answer", "inputs"}
    kept = {key: value for key, value in task.file.model_dump(include=keys).items() if value is not None}
    choices = {"choices": {label: list(words) for label, words in task.verbalizer.words.items()}} if task.verbalizer else {}
    return {**kept, "template": task.template.text, **choices}


def without_rows(record: Mapping[str, Any], where: str) -> Task:
    """Return the task of a `record_of`, without rows.

    Args:
        where: what the record is in, for messages.

    Raises:
        UserError: it is no such record.
    """
    file = validate(TaskFile, {**record, "data": {}}, where)
    metrics = ("accuracy", "macro_f1") if _has_choices(file) else ("exact_match",)
    return Task(file, Template(file.template), _verbalizer(file, ()), metrics, Splits([], [], []), {})


def embedded_tasks() -> list[str]:
    """Return the names of the embedded tasks."""
    return sorted(f.stem for f in _TASKS.glob("*.yaml"))


def require_permission(name: str, allow_canary: bool) -> None:
    """Check that a task's rows may be learned from, or prompts be chosen by them.

    BIG-bench asks that its rows stay out of training, and marks them so that models that were trained on them are found out.

    Raises:
        UserError: they carry the mark, and nobody said that it is meant.
    """
    source = name
    if Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
        data = read_yaml(Path(name)).get("data")
        source = str(data.get("source")) if isinstance(data, dict) else ""
    if source.startswith(_bigbench.PREFIX) and not allow_canary:
        raise UserError(
            f"the rows of {source} carry a canary: they are for measuring, and a model that learned them can be found out",
            "If it is meant: --allow_canary. The run records it.",
        )


def names_task(name: str) -> bool:
    """Whether a word is the name of a task or of its YAML file, rather than of a file of rows."""
    return name in embedded_tasks() or name.startswith(_bigbench.PREFIX) or Path(name).suffix in (".yaml", ".yml")


def holds_task(path: Path) -> bool:
    """Whether a file's rows are a task by themselves, without a YAML file.

    Raises:
        UserError: it is no file of rows.
    """
    return formats.sniff(path).convention in _PLAIN


def _task_of_rows(path: Path) -> TaskFile:
    convention = formats.sniff(path).convention
    if convention not in _PLAIN:
        raise UserError(
            f"{path.name} holds {convention.replace('_', ' ')} rows, not text and label",
            "Write a task YAML that names its template and answer field; see docs/tasks.md.",
        )
    values = {"name": path.name.split(".")[0], "data": DataSection(train=path.name), **_PLAIN[convention]}
    return TaskFile.model_validate(values)


def _build(file: TaskFile, folder: Path, skip_bad_rows: bool) -> Task:
    templates = _templates.build(file.texts)
    template = next(iter(templates.values()))
    metrics = tuple(file.metrics or (["accuracy", "macro_f1"] if _has_choices(file) else ["exact_match"]))
    for metric in metrics:
        METRICS.get(metric)
    bad: list[BadRow] = []
    warnings: list[str] = []
    parts = _read(file, folder, skip_bad_rows, bad, warnings)
    if _templates.is_jinja(file.template):
        file, parts = _rendered(file, parts, skip_bad_rows, bad)
    elif file.answer_choices is not None:
        raise UserError(
            f"task '{file.name}' has answer_choices and no Jinja template", "Give 'choices', or write input ||| target."
        )
    parts = {name: _sifted(file, templates, None, rows, skip_bad_rows, bad) for name, rows in parts.items()}
    verbalizer = _verbalizer(file, parts["train"])
    if verbalizer:
        parts = {name: _sifted(file, templates, verbalizer, rows, skip_bad_rows, bad) for name, rows in parts.items()}
    warnings += _templates.lint(file.texts, verbalizer)
    if bad:
        warnings.append(f"{len(bad):,} unusable rows were left out; the first: {bad[0].where}: {bad[0].reason}")
    if not file.data.source:
        parts = split(template, parts, warnings)
    for name in ("train", "test"):
        if not parts[name]:
            why = "".join(f"\n  {warning}" for warning in warnings)
            raise UserError(f"task '{file.name}' has no {name} rows{why}", "Give it more rows.")
    for pattern in file.patterns:
        Pattern(pattern).check(parts["train"][0].fields)
    splits = Splits(parts["train"], parts["validation"], parts["test"], bad, warnings)
    return Task(file, template, verbalizer, metrics, splits, templates)


def _has_choices(file: TaskFile) -> bool:
    return file.choices is not None or file.answer_choices is not None


def _rendered(
    file: TaskFile, parts: dict[str, list[Example]], skip_bad_rows: bool, bad: list[BadRow]
) -> tuple[TaskFile, dict[str, list[Example]]]:
    """Render Jinja templates into fields of the rows; from then on the task is like any other, its answer in `target`."""
    if file.answer or (file.choices is not None and file.answer_choices is not None):
        given = "answer" if file.answer else "choices"
        raise UserError(f"task '{file.name}': a Jinja template says its target, so '{given}' would be ignored", "Leave it out.")
    whole = [row for rows in parts.values() for row in rows]
    found, choices = _templates.rendered_rows(file.texts, file.answer_choices, whole)
    update: dict[str, Any] = {"answer": _templates.TARGET}
    if file.answer_choices is not None:
        update["choices"] = choices
    made: dict[str, list[Example]] = {}
    at = 0
    for name, rows in parts.items():
        here, at = found[at : at + len(rows)], at + len(rows)
        _set_aside(rows, [one if isinstance(one, str) else "" for one in here], skip_bad_rows, bad)
        made[name] = [one for one in here if isinstance(one, Example)]
    return file.model_copy(update=update), made


def _read(file: TaskFile, folder: Path, skip_bad_rows: bool, bad: list[BadRow], warnings: list[str]) -> dict[str, list[Example]]:
    """Read the rows of each part that is given, and add to `bad` and `warnings`."""
    data = file.data
    files = {name: path for name in ("train", "validation", "test") if (path := getattr(data, name))}
    if data.source:
        if files or data.map:
            raise UserError(f"task '{file.name}' names a source and files", "Give either data: {source: NAME} or files.")
        if data.source.startswith(_bigbench.PREFIX):
            return _bigbench.splits(data.source, warnings)
        return SOURCES.get(data.source).splits()
    if not data.train:
        raise UserError(f"task '{file.name}' has no data", "Give data: {train: FILE, test: FILE} or data: {source: NAME}.")
    parts = {}
    for name, path in files.items():
        # A template may name the columns as they are, or as the convention calls them.
        parts[name], broken, sniffed = formats.read(
            folder / path, skip_bad_rows=skip_bad_rows, mapping=data.map or None, own_names=True
        )
        bad += broken
        # That a task leaves columns aside is its own affair.
        warnings += [f"{path}: {warning}" for warning in sniffed.warnings if not warning.startswith("columns not used")]
    return parts


def _sifted(
    file: TaskFile, templates: Mapping[str, Template], verbalizer: Verbalizer | None, examples: list[Example],
    skip_bad_rows: bool, bad: list[BadRow],
) -> list[Example]:  # fmt: skip
    """Return the rows that fit the task; the others are an error, or are added to `bad`."""
    problems = [_problem(file, templates, verbalizer, example) for example in examples]
    _set_aside(examples, problems, skip_bad_rows, bad)
    return [e for e, problem in zip(examples, problems, strict=True) if not problem]


def _set_aside(examples: list[Example], problems: list[str], skip_bad_rows: bool, bad: list[BadRow]) -> None:
    """Add the rows with a problem to `bad`, or raise an error about the first."""
    unfit = [BadRow(e.where, p, excerpt(canonical(e.fields))) for e, p in zip(examples, problems, strict=True) if p]
    if unfit and (not skip_bad_rows or len(unfit) == len(examples)):
        others = f" (and {len(unfit) - 1:,} more rows)" if len(unfit) > 1 else ""
        fix = "Correct the rows, or go on without them: --skip_bad_rows." if len(unfit) < len(examples) else ""
        raise UserError(f"{unfit[0].where}: {unfit[0].reason}{others}", fix)
    bad += unfit


def _problem(file: TaskFile, templates: Mapping[str, Template], verbalizer: Verbalizer | None, example: Example) -> str:
    """Say why a row cannot be used; "" = it can."""
    which = ""
    try:
        for name, template in templates.items():
            which = f"template '{name}': " if len(templates) > 1 else ""
            template.prompt(example.fields)
        which, gold = "", _gold(file, example)
    except UserError as error:
        return f"{which}{error.message}. {error.fix}".rstrip(". ")
    if verbalizer and gold not in verbalizer.words:
        return f"label '{gold}' is not one of the task's choices: {', '.join(verbalizer.labels)}"
    return ""


def _verbalizer(file: TaskFile, train: Sequence[Example]) -> Verbalizer | None:
    choices = file.choices
    if choices is None:
        return None
    if choices == "labels":
        choices = sorted({_gold(file, example) for example in train})
        if len(choices) > _MOST_LABELS:
            raise UserError(
                f"the train rows have {len(choices)} different labels", "Leave out 'choices' if the answer is free text."
            )
    words = {c: [c] for c in choices} if isinstance(choices, list) else choices
    words = {label: tuple(w.strip() for w in ws) for label, ws in words.items()}
    if len(words) < 2:
        raise UserError(
            f"a task needs at least two choices, and this one has {len(words)}", "Check the labels of the train rows."
        )
    if any(not w for ws in words.values() for w in ws) or not all(words.values()):
        raise UserError("every choice needs at least one word that is not empty")
    said = Counter(w for ws in words.values() for w in ws)
    if twice := [w for w, count in said.items() if count > 1]:
        raise UserError(f"the word '{twice[0]}' stands twice among the choices", "Give each label words of its own.")
    return Verbalizer(words, file.aggregate, file.normalise)


def _gold(file: TaskFile, example: Example) -> str:
    field_name = answer_field(file, example.fields)
    value = example.fields[field_name]
    several = _annotations.said(field_name, value) if file.choices is None else None
    if several is not None:
        return several[0]
    try:
        label = formats.label_text(value)
    except RowProblem as problem:
        raise UserError(f"'{field_name}': {str(problem).replace('the label', 'the answer')}") from None
    return label if file.choices is not None or not isinstance(value, str) else value


def answer_field(file: TaskFile, fields: Mapping[str, Any]) -> str:
    """Return the field that holds the gold answer.

    Raises:
        UserError: the row has none.
    """
    if file.answer:
        known: Sequence[str] = (file.answer,)
    else:
        known = ("label",) if file.choices is not None else _ANSWERS
    for name in known:
        if name in fields:
            return name
    raise UserError(f"the row has no field '{known[0]}' with the answer", f"Set 'answer:' to one of {', '.join(fields)}.")
