"""Several adapters trained alike from different seeds, and their majority vote (prompt ensembling, Lester et al. 2021)."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

from tunesmith.core.seeds import derive
from tunesmith.evaluate.results import Prediction
from tunesmith.recipes._ladder.climb import Climbed, Workshop
from tunesmith.recipes._routes.training import climb_trained


def climb_ensemble(shop: Workshop, title: str, method: tuple[ModuleType, Any], members: int) -> Climbed:
    """Train `members` adapters below the route's folder, each from its own seed, and let them vote on every item.

    Costs are sums over the members; what is forgotten is that of the member that forgot most.
    """
    climbed, model = [], shop.lm.model  # loaded before there are copies, so that they share it
    for number in range(1, members + 1):
        one = copy.copy(shop)
        one.folder, one.seed = shop.folder / f"member-{number}", derive(shop.seed, "member", number)
        climbed.append(climb_trained(one, f"{title}, {number} of {members}", method))
        model.soft_prefix.enabled = False
    alone = [sum(p.correct for p in c.draws[0]) / len(c.draws[0]) for c in climbed]
    guarded = [c.forgetting for c in climbed if c.forgetting]
    return Climbed(
        draws=[[vote(answers) for answers in zip(*(c.draws[0] for c in climbed), strict=True)]],
        evaluation_seconds=sum(c.evaluation_seconds for c in climbed),
        prompt_tokens=sum(c.prompt_tokens for c in climbed),
        latency_ms=(sum(c.latency_ms[0] for c in climbed), sum(c.latency_ms[1] for c in climbed)),
        seconds=sum(c.seconds for c in climbed),
        trained_parameters=sum(c.trained_parameters for c in climbed),
        forgetting=max(guarded, key=lambda f: f.perplexity_after) if guarded else None,
        notes=[*climbed[0].notes, f"right answers of each alone: {', '.join(f'{share:.3f}' for share in alone)}"],
    )


def vote(answers: Sequence[Prediction]) -> Prediction:
    """Return the answer that most give to one item; among equals that of the higher mean score, then the first given.

    Its scores are the means of theirs.
    """
    scores = {label: sum(a.scores[label] for a in answers) / len(answers) for label in answers[0].scores}
    votes = Counter(a.predicted for a in answers)
    chosen = max(votes, key=lambda answer: (votes[answer], scores.get(answer, 0.0)))
    return replace(answers[0], scores=scores, predicted=chosen, valid=sum(a.valid for a in answers) * 2 > len(answers))
