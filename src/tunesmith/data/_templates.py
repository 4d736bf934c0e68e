"""A task's templates: one or several, plain or Jinja, and what is probably a mistake in them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.data.sandbox import SEPARATOR, Rendered, render
from tunesmith.data.template import Template
from tunesmith.data.verbalizer import Verbalizer

TARGET = "target"
_CODE = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}|\{[A-Za-z_][A-Za-z0-9_]*\}", re.DOTALL)
_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def is_jinja(text: str) -> bool:
    """Whether a template is one of PromptSource's: its separator parts input and target."""
    return SEPARATOR in text


def build(texts: Mapping[str, str]) -> dict[str, Template]:
    """Return the templates by name. Those in Jinja are rendered when the task is loaded, into a field of every row each.

    Raises:
        UserError: one cannot work, or some are plain and some Jinja.
    """
    jinja = [name for name, text in texts.items() if is_jinja(text)]
    if jinja and len(jinja) < len(texts):
        plain = next(name for name in texts if name not in jinja)
        raise UserError(f"template '{jinja[0]}' is Jinja (it has {SEPARATOR}) and '{plain}' is not", "Write all in one way.")
    found = {}
    for at, (name, text) in enumerate(texts.items()):
        try:
            found[name] = Template(f"{{{_field(at)}}} {{answer}}" if jinja else text)
        except UserError as error:
            raise UserError(f"template '{name}': {error.message}" if len(texts) > 1 else error.message, error.fix) from None
    return found


def _field(at: int) -> str:
    return f"input_{at + 1}"


def rendered_rows(
    texts: Mapping[str, str], answer_choices: str | None, rows: Sequence[Example]
) -> tuple[list[Example | str], list[str]]:
    """Render Jinja templates for every row.

    Returns:
        Per row, the example with the fields `input_1`, ... and `target`, or why it cannot be used; and the answer choices,
        [] without.
    """
    found: list[Example | str] = []
    choices: tuple[str, ...] | None = None
    for row, made in zip(rows, render(texts, answer_choices, rows), strict=True):
        if isinstance(made, str):
            found.append(made)
            continue
        first = next(iter(made.values()))
        choices = first.choices if choices is None else choices
        problem = _differs(made, choices)
        inputs = {_field(at): one.input for at, one in enumerate(made.values())}
        found.append(problem or replace(row, fields={**row.fields, **inputs, TARGET: first.target}))
    return found, list(choices or ())


def _differs(made: Mapping[str, Rendered], choices: tuple[str, ...]) -> str:
    """Say why one row's renderings do not belong to one task; "" = they do."""
    name, first = next(iter(made.items()))
    for other, one in made.items():
        if one.target != first.target:
            return f"template '{name}' gives the target '{first.target}' and '{other}' gives '{one.target}'"
        if one.choices != choices:
            return (
                f"its answer choices are {', '.join(one.choices)}; other rows have {', '.join(choices)}, and a task has one list"
            )
    return ""


def lint(texts: Mapping[str, str], verbalizer: Verbalizer | None) -> list[str]:
    """Return what is probably a mistake: choices that a template says unevenly or more than once."""
    found = []
    for name, text in texts.items():
        said = _mentions(_CODE.sub(" ", text), verbalizer) if verbalizer else {}
        which = f"template '{name}'" if len(texts) > 1 else "the template"
        if (most := max(said.values(), default=0)) and (least := min(said.values())) != most:
            words = {count: next(word for word in said if said[word] == count) for count in (most, least)}
            found.append(f"{which} says the choice '{words[most]}' {_times(most)} and '{words[least]}' {_times(least)}: it leans")
        elif most > 1:
            found.append(f"{which} says every choice {_times(most)}; once is enough")
    return found


def _mentions(text: str, verbalizer: Verbalizer) -> dict[str, int]:
    """How often each label's first word stands in a text; where one word is part of another, the longest counts."""
    words = [words[0] for words in verbalizer.words.values()]
    longest_first = sorted(words, key=len, reverse=True)
    pattern = re.compile("|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in longest_first), re.IGNORECASE)
    said = [found[0].casefold() for found in pattern.finditer(text)]
    return {word: said.count(word.casefold()) for word in words}


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def unused_fields(texts: Iterable[str], rows: Sequence[Example], answer: str) -> list[str]:
    """Return the columns that no template mentions, the answer's left aside."""
    used = {name for text in texts for code in _CODE.findall(text) for name in _FIELD.findall(code)} | {answer, TARGET}
    columns = dict.fromkeys(str(name) for row in rows for name in row.fields)
    return [name for name in columns if name not in used and not re.fullmatch(r"input_\d+", name)]
