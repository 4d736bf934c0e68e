"""The JSON tasks of BIG-bench (Srivastava et al. 2022), unpacked from a pinned archive; its code is never imported or run.

`bigbench:TASK` (or `bigbench:TASK/SUBTASK`) is a task wherever one is named. Choices that are the same in every row become the
task's choices; a target becomes the answer to write. Every file carries a canary, by which models that were trained on it
can be found out: what learns from these rows must be told to (`--allow_canary`).
"""

from __future__ import annotations

import functools
import json
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tunesmith.core import store
from tunesmith.core.errors import UserError, unknown
from tunesmith.core.files import canonical, text_hash
from tunesmith.core.records import Example, Preference
from tunesmith.data._annotations import checked_answers, checked_tags
from tunesmith.data._readers import RowProblem

PREFIX = "bigbench:"
_LARGEST_TASK = 256 << 20
_TEST_SHARE, _VALIDATION_SHARE = 0.20, 0.10


def folder() -> Path:
    """Return the folder with one `TASK.json` or `TASK/SUBTASK.json` a task, fetched (358 MB) on first use."""
    return store.prepared("bigbench", store.BIGBENCH, _build)


def _build(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = Path(member.name).parts
            if not (member.isfile() and parts[-1] == "task.json" and "benchmark_tasks" in parts and member.size < _LARGEST_TASK):
                continue
            names = parts[parts.index("benchmark_tasks") + 1 : -1]
            content = tar.extractfile(member)
            if content is None or not 1 <= len(names) <= 2 or any(n.startswith(".") for n in names):
                continue
            # The file name is built from checked parts; nothing is extracted by the path an archive claims.
            path = target.joinpath(*names).with_suffix(".json")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())


def names() -> list[str]:
    """Return the names of all tasks, those of subtasks as TASK/SUBTASK."""
    root = folder()
    paths = [path.relative_to(root).with_suffix("") for path in root.rglob("*.json") if path.name != "MANIFEST.json"]
    return sorted("/".join(path.parts) for path in paths)


def task(name: str) -> dict[str, Any]:
    """Return what the YAML file of a task would say, as the settings of its JSON file have it (BIG-bench, `json_task.py`).

    Raises:
        UserError: there is no such task, or it cannot be asked as one question with one set of answers.
    """
    content = _content(name)
    values: dict[str, Any] = {
        "name": name.removeprefix(PREFIX).replace("/", "-"), "description": str(content.get("description", "")),
        "data": {"source": name}, "instruction": str(content.get("task_prefix", "")).strip(),
        "separator": str(content.get("few_shot_example_separator", "\n")) or "\n",
    }  # fmt: skip
    if special := _SPECIAL.get(name.removeprefix(PREFIX)):
        return {**values, **special[0]}
    choices = _choices(name, content)
    before, after = (
        str(content.get(f"example_{side}_prefix", usual)) for side, usual in (("input", "\nQ: "), ("output", "\nA: "))
    )
    listed = "".join(f"{content.get('choice_prefix', chr(10) + '  choice: ')}{choice}" for choice in choices)
    shown = listed if content.get("append_choices_to_input", True) else ""
    lead = after[len(after.rstrip()) :] or " "
    values["template"] = f"{before.lstrip()}{{input}}{shown}{after.rstrip()}{lead}{{answer}}"
    if choices:
        return {**values, "choices": choices}
    return {**values, "answer": "answers", "metrics": ["exact_match"]}


def splits(name: str, notes: list[str]) -> dict[str, list[Example]]:
    """Return train, validation and test; which of them a row is in follows from its text alone.

    Args:
        notes: what was left out is said here.

    Raises:
        UserError: there is no such task.
    """
    content = _content(name)
    read = _SPECIAL[name.removeprefix(PREFIX)][1] if name.removeprefix(PREFIX) in _SPECIAL else _plain
    parts: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    seen: set[str] = set()
    left_out: list[str] = []
    for number, row in enumerate(content["examples"], 1):
        asked = text_hash("bigbench", " ".join(str(row.get("input", "")).split()).casefold())
        try:
            fields = read(row)
        except RowProblem as problem:
            left_out.append(f"row {number}: {problem}")
            continue
        if asked in seen:
            left_out.append(f"row {number}: it asks what an earlier row asks")
            continue
        seen.add(asked)
        share = int(text_hash("split", asked), 16) / 16**16
        part = "test" if share < _TEST_SHARE else "validation" if share < _TEST_SHARE + _VALIDATION_SHARE else "train"
        parts[part].append(Example(text_hash(canonical(fields)), fields, f"{name}:{number}"))
    if left_out:
        notes.append(f"{len(left_out):,} of {len(content['examples']):,} rows of {name} were left out; the first: {left_out[0]}")
    # The files are often sorted by answer; an order by hash is as good as random and the same everywhere.
    return {part: sorted(rows, key=lambda e: text_hash("order", e.id)) for part, rows in parts.items()}


def preferences(name: str) -> list[Preference]:
    """Return the rows of a task, and of all its subtasks, in which some choices are better than others, as preferences.

    Raises:
        UserError: there is no such task, or its rows have no choices of their own.
    """
    wanted = name.removeprefix(PREFIX)
    parts = [other for other in names() if other.startswith(f"{wanted}/")] or [wanted]
    found = []
    for part in parts:
        for number, row in enumerate(_content(PREFIX + part)["examples"], 1):
            scores = row.get("target_scores")
            if isinstance(scores, dict) and len(scores) > 1:
                places = sorted(set(scores.values()), reverse=True)
                ranks = tuple(1 + places.index(score) for score in scores.values())
                texts = tuple(choice.strip() for choice in scores)
                where = f"{PREFIX}{part}:{number}"
                found.append(Preference(text_hash(canonical([row["input"], texts, ranks])), row["input"], texts, ranks, where))
    if not found:
        raise UserError(f"the rows of {name} have no choices of which some are better", "bigbench:hhh_alignment has.")
    return found


@functools.lru_cache(maxsize=4)
def _content(name: str) -> Mapping[str, Any]:
    wanted = name.removeprefix(PREFIX)
    if wanted not in names():
        near = unknown("BIG-bench task", wanted, names())
        raise UserError(near.message, near.fix if near.fix.startswith("Did") else "Their names: tunesmith fetch bigbench.")
    path = folder().joinpath(*wanted.split("/")).with_suffix(".json")
    content = json.loads(path.read_text(encoding="utf-8"))
    if not content.get("examples"):
        parts = [other for other in names() if other.startswith(f"{wanted}/")]
        raise UserError(
            f"{name} is {len(parts)} subtasks and has no rows of its own", f"Name one, for example {PREFIX}{parts[0]}."
        )
    return content


def _choices(name: str, content: Mapping[str, Any]) -> list[str]:
    """Return the choices that all rows have, in the order of the first; none where the answer is written."""
    sets = [row["target_scores"] for row in content["examples"] if isinstance(row.get("target_scores"), dict)]
    if not sets:
        return []
    if any(set(one) != set(sets[0]) for one in sets) or len(sets) < len(content["examples"]):
        raise UserError(
            f"the choices of {name} differ from row to row, and a task has the same for all its rows",
            "Ask it with lm-eval (--lm_eval_tasks), or write its rows to a file with the choices in the text.",
        )
    return [choice.strip() for choice in sets[0]]


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    scores = row.get("target_scores")
    if isinstance(scores, dict):
        best = [choice for choice, score in scores.items() if score == max(scores.values())]
        if len(best) != 1:
            raise RowProblem(f"{len(best)} of its choices are the best")
        return {"input": row["input"], "label": best[0].strip()}
    targets = row["target"] if isinstance(row["target"], list) else [row["target"]]
    return {"input": row["input"], "answers": {"text": [str(target).strip() for target in targets], "answer_start": []}}


def _disfluent(row: Mapping[str, Any]) -> dict[str, Any]:
    """Split question and passage, and find the answer in it, whatever the spaces; of several places the first is taken."""
    question, _, context = row["input"].partition("\ncontext:")
    question, context, target = question.strip(), context.strip(), row["target"].strip()
    if target == "unknown":
        return {"question": question, "context": context, "answers": {"text": [], "answer_start": []}}
    # The passage is cut into tokens ("40 , 000") and the answer is not ("40,000").
    letters = r"\s*".join(re.escape(letter) for letter in "".join(target.split()))
    found = re.search(rf"(?<!\w){letters}(?!\w)", context)
    if not found:
        raise RowProblem(f"the answer {target!r:.60} does not stand in the context")
    answers = checked_answers(context, {"text": [found[0]], "answer_start": [found.start()]})
    return {"question": question, "context": context, "answers": answers}


def _tagged(row: Mapping[str, Any]) -> dict[str, Any]:
    return dict(checked_tags(row["input"].split(), row["target"].split()))


# Tasks whose rows are more than an input and a target: what the YAML file would say, and how a row is read.
_SPECIAL: dict[str, tuple[dict[str, Any], Callable[[Mapping[str, Any]], dict[str, Any]]]] = {
    "disfl_qa": (
        {
            "template": "Context: {context}\nQuestion: {question}\nAnswer: {answer}", "answer": "answers",
            "metrics": ["squad_f1", "squad_em"], "instruction": "", "separator": "\n\n",
        },
        _disfluent,
    ),
    "polish_sequence_labeling": (
        {"template": "{tokens}\n{answer}", "answer": "tags", "metrics": ["entity_f1"]},
        _tagged,
    ),
}  # fmt: skip
