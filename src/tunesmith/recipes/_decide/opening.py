"""Opening what is asked typed questions, and keeping it with its decider in one directory."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.files import sync_directory, verify_manifest, write_manifest
from tunesmith.core.records import Example
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import Task, record_of, without_rows
from tunesmith.evaluate.answer import Asker
from tunesmith.evaluate.classify import classifier_scores
from tunesmith.evaluate.decision import Decider, Decision
from tunesmith.evaluate.decision_config import ask_theirs, write_config
from tunesmith.models.encoder import KINDS, architecture_of, load_encoder
from tunesmith.models.load import LM
from tunesmith.recipes._models import load

Scores = Callable[[Sequence[Example], str], list[dict[str, float]]]
FOLDER = "decision"
_COMPARED = 5


@dataclass(frozen=True)
class Artefact:
    """Something that gives the options of a task's question scores.

    Attributes:
        scores: (rows, title) -> label -> score, one a row. prompts: of a decoder; None for a classifier.
    """

    task: Task
    lm: LM
    prompts: Prompts | None
    scores: Scores


def open_artefact(task: Task, model: str, adapter: str | None, dtype: str) -> Artefact:
    """Open a decoder (prompted, or with an adapter on it) or a classifier.

    Raises:
        UserError: no such model or adapter, they do not fit, or other labels than the task's.
        WorkFailed: the adapter's probe does not come back.
    """
    if architecture_of(model)[0].endswith(KINDS["classifier"]):
        if adapter:
            raise UserError(f"'{model}' is a classifier, and adapters stand on decoders", "Leave out --adapter.")
        encoder = load_encoder(model, "classifier", dtype="fp32" if dtype == "auto" else dtype)
        return Artefact(task, encoder, None, lambda rows, title: classifier_scores(encoder, task, rows, title))
    lm = load(model, adapter, dtype)
    prompts = Prompts(task, lm.tokenizer)
    return Artefact(task, lm, prompts, Asker(lm, prompts, trained=adapter is not None).scores)


def save_decision(
    run: Path, decider: Decider, artefact: Artefact, adapter: str | None, rows: Sequence[Example]
) -> tuple[Path, list[str]]:
    """Write `decision/` below a run's folder, whole or not at all: decider, adapter, and transformers' files where they fit.

    Args:
        rows: some, on the first of which transformers has to make the same prompts.

    Returns:
        The directory, and what transformers' files could not take, in sentences.
    """
    task, lm = artefact.task, artefact.lm
    stage, target = run / f".{FOLDER}.tmp", run / FOLDER
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    if adapter:
        shutil.copytree(adapter, stage / "adapter")
    if artefact.prompts:
        subfolder = "adapter" if adapter and _theirs_can_load(Path(adapter)) else None
        left = write_config(stage, decider, artefact.prompts, rows[:_COMPARED], subfolder)
        if adapter and not subfolder:
            left.append("transformers' decision pipeline loads no adapter of this kind")
    else:
        left = ["transformers' decision pipeline cannot ask this: it has no place for a classifier"]
    asked = record_of(task)
    dtype = str(lm.dtype).removeprefix("torch.")
    made_of = {"model": _placed(lm.name), "adapter": "adapter" if adapter else None, "dtype": dtype, "identity": lm.identity}
    decider.abstaining(decider.abstain_below, task=asked, **made_of, not_in_decision_json=left).save(stage)
    write_manifest(stage)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(stage, target)
    sync_directory(run)
    return target, left


def _placed(name: str) -> str:
    return str(Path(name).resolve()) if Path(name).is_dir() else name


def _theirs_can_load(adapter: Path) -> bool:
    return json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("peft_type") == "LORA"


def ask(folder: Path, model: str | None, text: str | None, fields: Mapping[str, str]) -> tuple[str, float, Decision]:
    """Ask a decision directory one question; returns its kind, its threshold and the decision.

    Args:
        model: where the model is now, None = where it was. text: what to decide about, or `fields`.

    Raises:
        UserError: not a decision directory, a damaged one, another model than it was calibrated for, or other fields.
    """
    decider, artefact = reopen(folder, model)
    scores = artefact.scores([_row(artefact.task, text, fields)], "")
    return decider.question.kind, decider.abstain_below, decider.decide(scores[0])


def ask_foreign(folder: Path, model: str, question: Mapping[str, Any], text: str) -> tuple[str, float, Decision]:
    """Ask a typed question by transformers' files alone; returns its kind, no threshold, and the decision.

    Raises:
        UserError: a question that cannot be asked.
    """
    answers = ask_theirs(load(model), folder, {"state": text, "questions": {"answer": question}})
    return str(question["type"]), 0.0, answers["answer"]


def reopen(folder: Path, model: str | None) -> tuple[Decider, Artefact]:
    """Open a decision directory with the model it was made with.

    Args:
        model: where the model is now, None = where it was.

    Raises:
        UserError: not a decision directory, a damaged one, or another model than it was calibrated for.
    """
    decider = Decider.load(folder)
    if (folder / "MANIFEST.json").is_file() and (problem := verify_manifest(folder)):
        raise UserError(f"the decision directory {folder} is damaged: {problem}", "Use another copy of it.")
    about = decider.about
    try:
        task = without_rows(about["task"], "the decision's task")
        name, adapter, dtype = model or about["model"], about["adapter"], about["dtype"]
        identity = about["identity"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder} does not say what was asked ({error})", "Make it again: tunesmith decide TASK.") from None
    artefact = open_artefact(task, name, str(folder / "adapter") if adapter else None, dtype)
    if artefact.lm.identity != identity:
        raise UserError(
            f"{folder} was calibrated for other weights ({identity}) than those of '{name}' ({artefact.lm.identity})",
            "Give the model it was made with (--model), or calibrate again.",
        )
    return decider, artefact


def _row(task: Task, text: str | None, fields: Mapping[str, str]) -> Example:
    names = task.template.fields
    given = {names[0]: text} if text is not None and len(names) == 1 else dict(fields)
    if set(given) != set(names):
        flags = "--text TEXT" if len(names) == 1 else " ".join(f"--fields.{name} TEXT" for name in names)
        raise UserError(f"this decision reads {', '.join(names)}", f"Give {flags}.")
    return Example("0", given, "the text")
