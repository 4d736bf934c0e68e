"""Teach a model to say when it does not know: probe what it knows, then compare prompting, fine-tuning and a reward table.

Schulman (Berkeley, 2023): fine-tuning on answers that a model does not know teaches it to guess; a reward for being right,
wrong, hedging and declining can teach it the boundary, for only the model knows what it knows.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.progress import say
from tunesmith.recipes._honesty.config import Config

if TYPE_CHECKING:
    from tunesmith.data.questions import Question
    from tunesmith.models.load import LM
    from tunesmith.recipes._honesty.boundary import Probed
    from tunesmith.recipes._honesty.routes import Route
    from tunesmith.rl.reward_table import RewardTable

POSITIONAL = "data"
EXAMPLES = (
    "tunesmith honesty bigbench:qa_wikidata --allow_canary",
    "tunesmith honesty questions.jsonl --table.wrong -2 --method rloo",
)
# Fewer questions find no threshold worth the name.
_FEWEST = 20
_MATTERS_NOT = {"run_dir", "overwrite", "threads", "max_memory_gb", "allow_canary"}


def run(config: Config) -> dict[str, Any]:
    """Probe, train, measure and report.

    Returns:
        status, run_dir, model, table, regions (of the probability of being right, and what is best there),
        never_best, probe (train and test), routes, differences (the last route, and gold_threshold, against each other one),
        verdict, wall_seconds, peak_memory_gb, warnings.

    Raises:
        UserError: unusable questions, a table with a wrong sign, or a model that knows all or none of the questions.
        WorkFailed: a loss, score or gradient is not finite. Interrupted: a signal; finished steps are kept.
    """
    from tunesmith.core.memory import peak_gb
    from tunesmith.evaluate.report.honesty import verdict
    from tunesmith.recipes._honesty.measuring import measured, probe_facts, write_report
    from tunesmith.recipes._honesty.routes import thresholded
    from tunesmith.recipes._models import load, quiet_libraries, use_threads
    from tunesmith.rl.reward_table import RewardTable

    start = time.monotonic()
    table = RewardTable(**config.table.model_dump())
    RewardTable(**config.learned)  # checks its signs too
    asked = _questions(config)
    train, test, warnings = asked.train, asked.test, asked.warnings
    quiet_libraries()
    use_threads(config.threads)
    lm = load(config.model, None, config.dtype)
    folder = _begin(config, lm, [*train, *test, *asked.fresh])
    probes, tests, routes = _untrained(config, folder, lm, train, test)
    del lm
    if "threshold" in config.routes:
        judged = [(p.said.confidence, p.right) for p in probes]
        routes.append(thresholded(table, "threshold", routes[0], judged, "training questions"))
    routes += _trained(config, folder, table, [p.question for p in tests], asked.fresh)
    found = measured(table, routes, tests, config.seed)
    if "hedge" in table.never_best():
        warnings.append("under this table hedging is best for no probability of being right, so no honest hedge can win")
    report = {
        "status": "done", "run_dir": str(folder), "model": config.model, "table": config.table.model_dump(),
        "regions": [{"action": r.action, "low": float(r.low), "high": float(r.high)} for r in table.regions()],
        "never_best": table.never_best(), "probe": {"train": probe_facts(probes), "test": probe_facts(tests)}, **found,
        "verdict": verdict(found), "wall_seconds": time.monotonic() - start,
        "peak_memory_gb": peak_gb(), "warnings": warnings,
    }  # fmt: skip
    write_report(folder, report, tests, routes)
    return report


@dataclass(frozen=True)
class _Asked:
    """Questions to learn from, to be measured on, and to find thresholds on; and what to say about them."""

    train: list[Question]
    test: list[Question]
    fresh: list[Question]
    warnings: list[str]


def _questions(config: Config) -> _Asked:
    from tunesmith.core.errors import UserError
    from tunesmith.data.questions import read_questions
    from tunesmith.data.task import require_permission

    require_permission(config.data, config.allow_canary)
    found = read_questions(config.data, config.seed, skip_bad_rows=config.skip_bad_rows)
    train, test, warnings = found.train[: config.train_rows], found.test[: config.test_rows], found.warnings
    fresh = found.train[config.train_rows :][: config.fresh_rows]
    if "gold_threshold" in config.routes and len(fresh) < _FEWEST:
        fresh, said = [], f"{len(fresh)} questions are left behind the training ones"
        warnings = [*warnings, f"gold_threshold is left out: {said}, and it takes {_FEWEST} to find a threshold"]
    if config.others:
        more = read_questions(config.others, config.seed, skip_bad_rows=config.skip_bad_rows)
        asked = {q.id for q in [*train, *test]}
        test = [*test, *(q for q in [*more.train, *more.test] if q.id not in asked)]
        warnings = [*warnings, *more.warnings]
    if len(train) <= config.demonstrations or not test:
        raise UserError(
            f"{config.data} has {len(train)} questions to learn from, of which {config.demonstrations} are shown as "
            f"demonstrations, and {len(test)} to measure on",
            "Give more questions.",
        )
    return _Asked(train, test, fresh, warnings)


def _begin(config: Config, lm: LM, questions: list[Question]) -> Path:
    """Open the run directory of these settings and questions."""
    from tunesmith.core.files import canonical, text_hash
    from tunesmith.core.runs import Run
    from tunesmith.recipes._command import command_of

    name = Path(config.data).name.split(".")[0].rpartition(":")[2]
    inputs = {
        **config.model_dump(exclude=_MATTERS_NOT), "canary": config.allow_canary, "model_identity": lm.identity,
        "questions": text_hash(canonical([[q.text, q.answers, q.false_premise] for q in questions])),
    }  # fmt: skip
    about = {"command": command_of("honesty", config.data, config), "parents": []}
    return Run(Path(config.run_dir or f"runs/honesty-{name}"), inputs, about, config.overwrite).folder


def _untrained(
    config: Config, folder: Path, lm: LM, train: list[Question], test: list[Question]
) -> tuple[list[Probed], list[Probed], list[Route]]:
    """Probe what the model knows, write what there is to learn, and ask it as it is."""
    from tunesmith.recipes._honesty import asking, boundary, routes

    shown = [q for q in train if q.answers][: config.demonstrations]
    train = [q for q in train if q not in shown]
    before = asking.demonstrated(config, [(q, q.answers[0]) for q in shown])
    found = []
    for part, questions in (("train", train), ("test", test)):
        prompts = [before + asking.question_prompt(config, q) for q in questions]
        said = asking.ask(config, lm, prompts, folder / "probe" / f"{part}.jsonl", config.samples)
        found.append(boundary.probed(config, questions, said))
    probes, tests = found
    boundary.check_both_kinds(config, probes)
    boundary.write_data(config, folder / "data", probes, tests)
    say(f"{sum(p.known for p in probes):,} of {len(probes):,} training questions are known; see {folder / 'data'}")
    answers = folder / "answers"
    note = f"the model as it is, shown {len(shown)} questions with their answers"
    made = [routes.heard(config, lm, "base", before, test, answers, note)]
    if "prompt" in config.routes:
        pairs = asking.declining_demonstrations(
            [p.question for p in probes if p.known], [p.question for p in probes if not p.known], config.demonstrations
        )
        asked = asking.demonstrated(config, pairs, config.instruction)
        note = f"told {json.dumps(config.instruction)} and shown {len(pairs)} questions, half of them declined"
        made.append(routes.heard(config, lm, "prompt", asked, test, answers, note))
    return probes, tests, made


def _trained(config: Config, folder: Path, table: RewardTable, test: list[Question], fresh: list[Question]) -> list[Route]:
    """Train each way that was asked for, and ask what came out."""
    from tunesmith.recipes._honesty import routes

    made: list[Route] = []
    artefact = folder
    for name, note in (
        ("gold", "fine-tuned on the right answer to every question, known or not"),
        ("boundary", "fine-tuned to answer what it was found to know, and to say so where it does not (R-Tuning)"),
        ("aligned", f"from boundary on, {config.steps} rounds of {config.rollouts} answers rewarded by the table"),
    ):
        if name not in config.routes:
            continue
        lm, artefact = routes.aligned(config, folder, artefact) if name == "aligned" else routes.tuned(config, folder, name)
        made.append(routes.heard(config, lm, name, "", test, folder / "answers", note))
        if name == "gold" and "gold_threshold" in config.routes and fresh:
            judged = routes.judged_on(config, lm, fresh, folder / "answers" / "fresh.jsonl")
            made.append(routes.thresholded(table, "gold_threshold", made[-1], judged, "questions that nothing learned from"))
    return made


def render(report: dict[str, Any]) -> str:
    """Return the verdict and a line a route."""
    lines = [report["verdict"], "", f"{'route':14} {'score':>22}  answered  right  known answered"]
    for r in report["routes"]:
        score, shares = r["score"], [r[key]["value"] for key in ("answered", "right_of_answered", "known_answered")]
        shown = "  ".join("     -" if s is None else f"{s:6.1%}" for s in shares)
        lines.append(f"{r['route']:14} {score['value']:6.3f} [{score['low']:6.3f}, {score['high']:6.3f}]  {shown}")
    return "\n".join([*lines, f"see {report['run_dir']}/report.html"])
