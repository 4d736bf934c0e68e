"""Typed decisions with calibrated probabilities and an abstention threshold, from any model or adapter; or ask one.

A task calibrates: on validation rows a calibrator is fitted, test rows say what it is worth, and the decision directory
that comes out answers single questions.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.errors import UserError
from tunesmith.recipes._decide.config import Config

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.evaluate.abstention import Threshold
    from tunesmith.evaluate.decision import Decider, Question

POSITIONAL = "what"
EXAMPLES = (
    "tunesmith decide movies --adapter runs/tune-movies/adapter",
    "tunesmith decide movies --calibration platt --target_accuracy 0.9",
    'tunesmith decide runs/decide-movies/decision --text "a film to remember"',
)
_ASKING = {"what", "text", "fields", "question", "model", "threads"}
_ISOTONIC_ROWS = 1000


def run(config: Config) -> dict[str, Any]:
    """Calibrate on a task and report, or answer one question of a decision directory.

    Returns:
        Of a task: status, run_dir, decision, task, model, question, calibration, fitted, calibrators (name -> measures, "none"
        = before), threshold, target, fitted_rows, test_rows, not_in_decision_json, warnings. Of a directory: status, answer,
        probabilities, confidence, value, kind, abstain_below.

    Raises:
        UserError: a free-text task, too few or one-sided held-out rows, no such model, or settings of the other use.
    """
    from tunesmith.recipes._models import quiet_libraries, use_threads

    quiet_libraries()
    use_threads(config.threads)
    if Path(config.what).is_dir():
        return _ask(config)
    if given := sorted({"text", "fields", "question"} & config.model_fields_set):
        raise UserError(f"--{given[0]} asks a decision directory, and '{config.what}' is none", "Give the directory first.")
    return _calibrate(config)


def _calibrate(config: Config) -> dict[str, Any]:
    from tunesmith.core.runs import Run
    from tunesmith.data.task import load_task, require_permission
    from tunesmith.evaluate.decision import check_rows, question_of
    from tunesmith.recipes._decide.opening import open_artefact, save_decision
    from tunesmith.recipes._decide.report import TestRows, target_facts

    require_permission(config.what, config.allow_canary)
    task = load_task(config.what, skip_bad_rows=config.skip_bad_rows)
    if task.verbalizer is None:
        raise UserError(f"the answers of '{task.name}' are free text, and a decision needs options", "Give the task choices.")
    question = question_of(task.verbalizer.labels, config.kind)
    pool = task.splits.train if config.calibrate_on == "train" else task.splits.validation
    held_out, test = pool[: config.validation_rows], task.splits.test[: config.test_rows]
    # What finds the threshold must not have fitted the calibrator, or its guarantee would be worth nothing.
    cut = len(held_out) // 2 if config.target_accuracy else len(held_out)
    gold = [task.gold(row) for row in held_out]
    check_rows(question, gold[:cut])
    artefact = open_artefact(task, config.model, config.adapter, config.dtype)
    inputs = _inputs(config, task, artefact.lm.identity)
    run = Run(Path(config.run_dir or f"runs/decide-{task.name}"), inputs, {"command": _command(config)}, config.overwrite)
    scores = artefact.scores([*held_out, *test], f"asking {config.model}")
    known, asked = scores[: len(held_out)], scores[len(held_out) :]
    fitted = _fitted(question, known[:cut], gold[:cut])
    decider, target = _with_threshold(config, fitted[config.calibration], known[cut:], gold[cut:])
    measured = TestRows(test, asked, [task.gold(row) for row in test], fitted, decider)
    folder, left = save_decision(run.folder, decider, artefact, config.adapter, test)
    content = {
        "status": "done", "run_dir": str(run.folder), "decision": str(folder), "task": task.name, "model": config.model,
        "question": asdict(question), "calibration": config.calibration, "fitted": decider.state,
        "calibrators": measured.measures(config.seed), "threshold": measured.threshold(), "target": target_facts(target),
        "fitted_rows": cut, "test_rows": len(test), "not_in_decision_json": left, "warnings": _warnings(task, cut, config),
    }  # fmt: skip
    measured.write(run.folder, content)
    return content


def _fitted(question: Question, scores: Sequence[Mapping[str, float]], gold: Sequence[str]) -> dict[str, Decider]:
    from tunesmith.core.registry import CALIBRATORS
    from tunesmith.evaluate.decision import Decider

    return {name: Decider.fit(question, scores, gold, name) for name in CALIBRATORS.names()}


def _with_threshold(
    config: Config, decider: Decider, scores: Sequence[Mapping[str, float]], gold: Sequence[str]
) -> tuple[Decider, Threshold | None]:
    """Give a decider the threshold that was asked for, found on rows of its own if it is to reach an accuracy."""
    from tunesmith.evaluate.abstention import guaranteed_threshold
    from tunesmith.evaluate.decision import gold_index

    if config.target_accuracy is None:
        return decider.abstaining(config.abstain_below or 0.0), None
    table = decider.probabilities(scores)
    correct = table.argmax(axis=1) == gold_index(decider.question, gold)
    target = guaranteed_threshold(table.max(axis=1), correct, config.target_accuracy, config.error)
    return decider.abstaining(target.abstain_below, target=asdict(target)), target


def _inputs(config: Config, task: Task, identity: str) -> dict[str, Any]:
    """What the outcome follows from."""
    settings = config.model_dump(exclude={"run_dir", "overwrite", "threads", "text", "fields", "question"})
    return {**settings, "template": task.template_hash, "model_identity": identity}


def _command(config: Config) -> str:
    given = config.model_dump(exclude_defaults=True, exclude={"what", "overwrite"})
    words = [w for k, v in given.items() for w in ("--set", f"{k}={v if isinstance(v, str) else json.dumps(v)}")]
    return shlex.join(["tunesmith", "decide", config.what, *words])


def _warnings(task: Task, rows: int, config: Config) -> list[str]:
    noted = []
    if config.calibration == "isotonic" and rows < _ISOTONIC_ROWS:
        noted.append(f"isotonic calibration on {rows} rows: below about {_ISOTONIC_ROWS:,} it overfits; compare it with platt")
    if config.calibrate_on == "train":
        noted.append("calibrated on training rows: worth nothing if the model has learned from them")
    return [*task.splits.warnings, *noted]


def _ask(config: Config) -> dict[str, Any]:
    from tunesmith.evaluate.decision import FILE
    from tunesmith.recipes._decide.opening import ask, ask_foreign

    if other := sorted(config.model_fields_set - _ASKING):
        raise UserError(f"--{other[0]} is for calibrating on a task, and '{config.what}' is a directory", "Leave it out.")
    folder = Path(config.what)
    if (folder / FILE).is_file() or not (folder / "decision.json").is_file():
        model = config.model if "model" in config.model_fields_set else None
        if config.question is not None:
            raise UserError(f"{folder} has its own question", "Leave out --question.")
        kind, below, decision = ask(folder, model, config.text, config.fields)
    else:
        if config.question is None or config.text is None:
            raise UserError(f"{folder} holds transformers' decision.json and no question", "Give --question and --text.")
        kind, below, decision = ask_foreign(folder, config.model, config.question, config.text)
    return {"status": "done", **asdict(decision), "kind": kind, "abstain_below": below}


def render(report: dict[str, Any]) -> str:
    """Return the answer, or what calibration is worth."""
    if "run_dir" not in report:
        shown = "  ".join(f"{option} {p:.3f}" for option, p in report["probabilities"].items())
        return f"{report['answer'] or 'no answer: it is not sure enough'}\n{shown}"
    from tunesmith.evaluate.report.decision import sentences

    lines = [f"{'':12} accuracy    ECE  Brier    NLL"]
    for name, found in report["calibrators"].items():
        values = "  ".join(f"{found[key]['value']:5.3f}" for key in ("ece", "brier", "nll"))
        saved = "  <- saved" if name == report["calibration"] else ""
        lines.append(f"{name:12}    {found['accuracy']['value']:5.3f}  {values}{saved}")
    lines += ["", *sentences(report), *report["not_in_decision_json"]]
    lines += [f"report: {report['run_dir']}/report.html", f"ask it: tunesmith decide {report['decision']} --text TEXT"]
    return "\n".join(lines)
