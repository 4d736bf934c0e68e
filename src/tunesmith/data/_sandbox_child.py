"""The process that renders other people's Jinja templates; started by `sandbox.py` as a file, it imports nothing of ours.

In: one JSON object {templates, answer_choices, rows} on standard input. Out: one JSON line a row and template, in order:
{"parts": [...], "choices": [...]} or {"error": sentence}; one with "fatal" (a limit was reached) or "broken" (no Jinja) is
the last. Before the first template is read, the process gives up memory beyond a limit, new files, sockets and processes;
each rendering has a limit of processor time and of characters.
"""

from __future__ import annotations

import json
import math
import random
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jinja2.debug  # Jinja imports it where a template fails, when no file can be opened any more
import jinja2.sandbox

MEMORY = 512 * 1024**2
SECONDS = 1.0
CHARACTERS = 100_000
_BAR = "|||"
# Stands for the separator where a row's own text has it; from a plane of Unicode that is private and empty.
_ROWS_BAR = "\U000f0a0c\U000f0a0d"


class _TooMuch(Exception):
    """A limit was reached."""


class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox without powers, which alone can keep a processor busy for hours in one operation."""

    intercepted_binops = frozenset(["**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Refuse the one operator that is intercepted."""
        raise jinja2.sandbox.SecurityError("powers (**) are not allowed")


def confine() -> None:
    """Give up what a template never needs; nothing of it can be had back."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    # Already open are 0, 1 and 2; every new file and every socket would need one more.
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))


def _out_of_time(number: int, frame: Any) -> None:
    raise _TooMuch(f"it ran for more than {SECONDS:g} s")


def environment() -> Environment:
    """Return Jinja with PromptSource's additions (`zip`, `choice`, `most_frequent`) and nothing random beside them."""
    made = Environment(undefined=jinja2.StrictUndefined)
    jinja2.sandbox.MAX_RANGE = 10_000
    made.globals.pop("lipsum")
    made.globals["zip"] = zip
    made.filters["choice"] = lambda values: random.choice(list(values))
    made.filters["most_frequent"] = lambda values: [
        v for v in dict.fromkeys(values) if values.count(v) == max(map(values.count, values))
    ]
    return made


def guarded(value: Any) -> Any:
    """Return a row's value with its own separators hidden, so that only the template's part the text."""
    if isinstance(value, str):
        return value.replace(_BAR, _ROWS_BAR)
    if isinstance(value, dict):
        return {key: guarded(inner) for key, inner in value.items()}
    return [guarded(inner) for inner in value] if isinstance(value, list) else value


def _rendered(template: jinja2.Template, fields: dict[str, Any]) -> list[str]:
    pieces: list[str] = []
    size = 0
    for piece in template.generate(**fields):
        pieces.append(piece)
        size += len(piece)
        if size > CHARACTERS:
            raise _TooMuch(f"it renders more than {CHARACTERS:,} characters")
    return [part.strip().replace(_ROWS_BAR, _BAR) for part in "".join(pieces).split(_BAR)]


@contextmanager
def limited() -> Iterator[None]:
    """Bound the processor time of what happens inside."""
    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    # A single operation in C cannot be interrupted by the timer; the kernel then ends the process.
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used + SECONDS) + 2, resource.RLIM_INFINITY))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    except MemoryError:
        raise _TooMuch("it needs too much memory") from None
    except RecursionError:
        raise _TooMuch("it calls itself without end") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def answer(template: jinja2.Template, choices: jinja2.Template | None, row: dict[str, Any]) -> dict[str, Any]:
    """Render one template for one row, within the limits."""
    random.seed(json.dumps(row, sort_keys=True))
    try:
        with limited():
            fields = guarded(row)
            words = _rendered(choices, fields) if choices else []
            return {"parts": _rendered(template, {**fields, "answer_choices": guarded(words)}), "choices": words}
    except _TooMuch as error:
        return {"error": str(error), "fatal": True}
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        return {"error": str(error)}


def _compiled(made: Environment, text: str) -> jinja2.Template | str:
    """Return a template, or what is wrong with it."""
    try:
        with limited():
            return made.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except (_TooMuch, OverflowError, ValueError) as error:
        return str(error)


def main() -> None:
    """Render every template for every row."""
    asked = json.load(sys.stdin)
    made = environment()
    made.from_string("{{ 'warm' }}").render()  # what Jinja and Python import on first use
    confine()
    signal.signal(signal.SIGPROF, _out_of_time)
    templates: list[jinja2.Template] = []
    for text in [*asked["templates"], *filter(None, [asked["answer_choices"]])]:
        template = _compiled(made, text)
        if isinstance(template, str):
            _say({"broken": len(templates), "error": template})
            return
        templates.append(template)
    choices = templates.pop() if asked["answer_choices"] else None
    for row in asked["rows"]:
        for template in templates:
            said = answer(template, choices, row)
            _say(said)
            if "fatal" in said:
                return


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
