"""Cloze prompts: a masked language model fills the gap of the task's patterns with its words (Schick & Schuetze 2021)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tunesmith.core.config import Config
from tunesmith.recipes._ladder.workload import Sizes, Workload

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.evaluate.cloze import ClozeAsker
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

KIND = "prompt"


class Parameters(Config):
    """What cloze prompting can be told; the patterns are the task's."""

    encoder: str = "minilm"
    """directory of a masked language model with a trained head, for example what tunesmith pretrain leaves"""
    calibrated: bool = False
    """divide by what a pattern says without content (Zhao et al. 2021)"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return "cloze calibrated" if parameters.calibrated else "cloze"


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return "" if task.verbalizer else "the answers are free text, which does not fit into a gap"


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Tokens read: each item in about five patterns, by an encoder that is about a fifth of the model."""
    return Workload(forward_tokens=sizes.items * sizes.prompt_tokens, seconds=5.0)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Ask every item in each pattern; patterns are draws, and their spread is reported."""
    from tunesmith.evaluate.cloze import ClozeAsker
    from tunesmith.models.encoder import load_encoder
    from tunesmith.recipes._ladder.climb import Climbed

    lm = load_encoder(parameters.encoder, "masked_lm")
    askers = [ClozeAsker(lm, shop.task, pattern) for pattern in shop.task.patterns]
    latency = askers[0].latencies(shop.items)
    start = time.perf_counter()
    priors = [asker.prior() if parameters.calibrated else None for asker in askers]
    seconds = time.perf_counter() - start
    names = [f"{label(parameters)} ({i} of {len(askers)})" for i in range(1, len(askers) + 1)]
    answers = [
        asker.ask(shop.items, number, prior, name)
        for number, (asker, prior, name) in enumerate(zip(askers, priors, names, strict=True))
    ]
    return Climbed(
        draws=[a.predictions for a in answers],
        evaluation_seconds=sum(a.seconds for a in answers),
        prompt_tokens=sum(a.prompt_tokens for a in answers) / len(answers),
        latency_ms=latency,
        seconds=seconds,
        notes=_notes(shop, askers),
    )


def _notes(shop: Workshop, askers: list[ClozeAsker]) -> list[str]:
    """Say which patterns the draws are, and what was shortened or split."""
    notes = [f"encoder with weights {askers[0].lm.identity}"]
    notes += [f"draw {number} is the pattern '{asker.pattern.text}'" for number, asker in enumerate(askers, 1)]
    if several := askers[0].long_words():
        named = ", ".join(f"'{word}'" for word in several[:5])
        notes.append(f"{len(several)} words have several tokens, and as many masks: {named}")
    if shortened := sum(asker.shortened(shop.items) for asker in askers):
        notes.append(f"{shortened} of {len(shop.items) * len(askers)} prompts were shortened, in their fields only")
    return notes
