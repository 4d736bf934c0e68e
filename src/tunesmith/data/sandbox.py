"""PromptSource's templates (Bach et al. 2022): Jinja, `input ||| target`, rendered in a process that can do nothing else.

Jinja is a programming language, and a template may come from anywhere. So it is never evaluated here, but in a child with
Jinja's immutable sandbox, without files, network or processes, and with limits of time, memory and length.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError, WorkFailed, near_miss
from tunesmith.core.records import Example

SEPARATOR = "|||"
_CHILD = Path(__file__).with_name("_sandbox_child.py")
_START_SECONDS, _SECONDS_A_RENDERING = 30.0, 0.02
_UNDEFINED = re.compile(r"'(\w+)' is undefined")


@dataclass(frozen=True)
class Rendered:
    """What one template makes of one row: the input, the target, and the answer choices it was shown with."""

    input: str
    target: str
    choices: tuple[str, ...]


def render(
    templates: Mapping[str, str], answer_choices: str | None, rows: Sequence[Example]
) -> list[dict[str, Rendered] | str]:  # fmt: skip
    """Render every template for every row.

    Args:
        templates: name -> Jinja text with one `|||` between input and target; the row's fields are its variables.
        answer_choices: Jinja text of the allowed answers, separated by `|||`; templates see them as `answer_choices`.

    Returns:
        Per row: template name -> what it rendered, or a sentence that says why it could not be (naming the template).

    Raises:
        UserError: a template is not Jinja, or ended the process that rendered it (names template and row).
        WorkFailed: the process could not be started.
    """
    names = list(templates)
    asked = {"templates": list(templates.values()), "answer_choices": answer_choices, "rows": [dict(r.fields) for r in rows]}
    lines, how = _run(json.dumps(asked, default=str), len(rows) * len(names))
    if lines and "broken" in lines[0]:
        name = [*names, "answer_choices"][lines[0]["broken"]]
        raise UserError(
            f"template '{name}' is not valid Jinja: {lines[0]['error']}",
            "It is checked when the task is loaded; the text before and after ||| is Jinja.",
        )
    if lines and "fatal" in lines[-1]:
        how = lines.pop()["error"]
    if len(lines) < len(rows) * len(names):
        row, template = divmod(len(lines), len(names))
        raise UserError(
            f"template '{names[template]}', {rows[row].where}: {how}", "Simplify the template; nothing of it was used."
        )
    found: list[dict[str, Rendered] | str] = []
    for at, row in enumerate(rows):
        made: dict[str, Rendered] = {}
        problem = ""
        for name, line in zip(names, lines[at * len(names) :], strict=False):
            made_or_problem = _read(line, row)
            if isinstance(made_or_problem, str):
                problem = problem or f"template '{name}': {made_or_problem}"
            else:
                made[name] = made_or_problem
        found.append(problem or made)
    return found


def _run(asked: str, renderings: int) -> tuple[list[dict[str, Any]], str]:
    """Return the lines the child wrote, and why there are no more of them."""
    # -I: neither the environment nor the current folder decides what is imported.
    command = [sys.executable, "-I", str(_CHILD)]
    limit = _START_SECONDS + _SECONDS_A_RENDERING * renderings
    try:
        done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=limit, env={}, cwd="/", check=False)
        out, how = done.stdout, "it took too much time or memory, and the process that rendered it was ended"
        if done.returncode > 0 and not out:
            raise WorkFailed(f"the process that renders templates could not work: {done.stderr.strip()[-300:]}")
    except subprocess.TimeoutExpired as late:
        out = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        how = f"all templates together took more than {limit:.0f} s"
    except OSError as error:
        raise WorkFailed(f"the process that renders templates cannot be started: {error.strerror}") from None
    whole = out[: out.rfind("\n") + 1].splitlines()
    return [json.loads(line) for line in whole], how


def _read(line: Mapping[str, Any], row: Example) -> Rendered | str:
    if "error" in line:
        missing = _UNDEFINED.match(line["error"])
        if missing:
            near = near_miss(missing[1], map(str, row.fields))
            return f"it uses '{missing[1]}', which the row does not have. {near}"
        return line["error"]
    parts = line["parts"]
    if len(parts) != 2 or not all(parts):
        return f"it renders {len(list(filter(None, parts)))} part(s), and 'input ||| target' has two"
    return Rendered(parts[0], parts[1], tuple(line["choices"]))
