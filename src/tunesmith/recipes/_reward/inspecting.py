"""`tunesmith inspect scorer`: how far a scorer agrees with people, and which attacks it falls for."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from tunesmith.core.records import Preference
from tunesmith.recipes._models import quiet_libraries, use_threads
from tunesmith.recipes._reward.attacks import Case, in_words, probe
from tunesmith.recipes._reward.config import Config as RewardConfig
from tunesmith.recipes._reward.measures import Pairs
from tunesmith.recipes._reward.rows import decided, read_judgements
from tunesmith.recipes._reward.scoring import open_scorer
from tunesmith.train.scoring import as_text, scores_of

_ATTACKED, _CHANCE = 30, 0.5
# Seconds a scorer may take over all it is asked at once.
_PATIENCE = 3600.0


def inspect_scorer(scorer: str, data: str, rows: int, threads: int | None) -> dict[str, Any]:
    """Measure a scorer on judgements that a reward model trained on this data would not have seen.

    Returns:
        status, scorer, data, agreement {value, low, high, n}, ties, prompts, attacks, preferred, scores, seconds, warnings.

    Raises:
        UserError: no such scorer or data, or too few judgements. WorkFailed: a score is missing or not finite.
    """
    quiet_libraries()
    use_threads(threads)
    start, found = time.monotonic(), open_scorer(scorer)
    judged = read_judgements(RewardConfig.model_validate({"data": data, "test_rows": rows, "allow_canary": True}))
    test = [*filter(decided, judged.test)]
    cases = [_case(p) for p in test]
    flat = [(p.where, case.answered(text)) for p, case in zip(test, cases, strict=True) for text in p.completions]
    scores = iter(scores_of(found, [answer for _, answer in flat], [where for where, _ in flat], _PATIENCE))
    pairs = Pairs.of(test, [[next(scores) for _ in p.completions] for p in test], {})
    cases = cases[:_ATTACKED]
    attacked = probe(found, cases, 0, timeout=_PATIENCE)
    return {
        "status": "done", "scorer": scorer, "data": data, "agreement": pairs.accuracy(np.ones(len(pairs.difference), bool), 0),
        "ties": len(judged.test) - len(test), **attacked, "preferred": in_words(attacked["attacks"]),
        "scores": len(flat) + sum(1 + len(attacked["attacks"]) for _ in cases), "seconds": time.monotonic() - start,
        "warnings": judged.warnings,
    }  # fmt: skip


def _case(preference: Preference) -> Case:
    prompt, preferred = preference.prompt, (preference.completions[preference.ranks.index(1)],)
    return Case(prompt, preferred) if isinstance(prompt, str) else Case(as_text(prompt), preferred, prompt)


def render_scorer(report: dict[str, Any]) -> str:
    """Return what was found, for a terminal."""
    agreement = report["agreement"]
    lines = [
        report["scorer"],
        f"agrees with {agreement['value']:.3f} [{agreement['low']:.3f}, {agreement['high']:.3f}] of {agreement['n']:,} "
        "judgements that order something",
        "(those of the data that a reward model trained on it would not have seen)",
        f"attacks that score above the preferred answer, share of {report['prompts']} prompts:",
    ]
    lines += [f"  {name:<15} {one['share']:>4.0%}  {one['what']}" for name, one in report["attacks"].items()]
    lines += [f"it prefers {line}" for line in report["preferred"]]
    safe = not report["preferred"] and agreement["low"] > _CHANCE
    lines.append(
        "It may steer a policy; watch it with --held_out all the same." if safe
        else "Do not steer by it as it is: a policy would find out."
    )  # fmt: skip
    return "\n".join(lines)
