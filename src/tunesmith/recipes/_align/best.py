"""The best of several answers, given as they are: nothing is trained."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical, text_hash, write_json, write_jsonl
from tunesmith.core.memory import peak_gb
from tunesmith.core.progress import Progress, say
from tunesmith.core.registry import ALIGNERS
from tunesmith.core.seeds import derive
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.load import LM
from tunesmith.recipes._align.config import Config
from tunesmith.recipes._align.page import write_best_page
from tunesmith.recipes._align.prompts import read_prompts
from tunesmith.recipes._align.record import run_of
from tunesmith.recipes._models import load, quiet_libraries, use_threads
from tunesmith.recipes._reward.attacks import require_sound
from tunesmith.recipes._reward.scoring import open_scorer
from tunesmith.rl import best_of_n
from tunesmith.stats import bootstrap
from tunesmith.train.rollouts import Prompt, Scorer
from tunesmith.train.scoring import scores_of

_PORTION = 32
_RESAMPLES = 2000


@dataclass(frozen=True)
class ReadyBest:
    """Who answers, what is asked, and who judges; `attacked` is how that one stood attacks."""

    lm: LM
    prompts: list[Prompt]
    scorer: Scorer
    attacked: dict[str, Any]
    samples: int
    fingerprint: str
    warnings: list[str]


def ready(config: Config) -> ReadyBest:
    """Load the policy, read prompts and open the scorer.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    quiet_libraries()
    use_threads(config.threads)
    samples = config.samples or ALIGNERS.parameters(config.method)[0].SAMPLES
    if samples < 2:
        raise UserError("the best of one answer is that answer", "Choose --samples of two or more.")
    assert config.scorer is not None
    scorer, lm = open_scorer(config.scorer), load(config.model, dtype=config.dtype)
    prompts, warnings = read_prompts(config, lm)
    attacked = require_sound(
        scorer, lm, prompts, Sampling(config.max_new_tokens), config.seed, config.allow_attackable, config.scorer_timeout
    )
    return ReadyBest(lm, prompts, scorer, attacked, samples, text_hash(canonical([list(p.ids) for p in prompts])), warnings)


def answered(it: ReadyBest, config: Config, folder: Path) -> list[dict[str, Any]]:
    """Answer every prompt several times and score the answers; portions that are kept in the folder are read.

    Returns:
        Per prompt: prompt, turns (of a conversation), where, answers (texts) and scores.

    Raises:
        WorkFailed: a score is not finite, or there are too few.
    """
    rows: list[dict[str, Any]] = []
    with Progress("answering", total=len(it.prompts), unit="prompts") as progress:
        for start in range(0, len(it.prompts), _PORTION):
            path = folder / "answers" / f"from-{start:06d}.json"
            portion = it.prompts[start : start + _PORTION]
            if path.is_file():
                made = json.loads(path.read_text(encoding="utf-8"))
            else:
                made = _portion(it, portion, config)
                path.parent.mkdir(exist_ok=True)
                write_json(path, made)
            rows += made
            progress.advance(len(portion))
    return rows


def _portion(it: ReadyBest, prompts: Sequence[Prompt], config: Config) -> list[dict[str, Any]]:
    asked = [prompt for prompt in prompts for _ in range(it.samples)]
    how = Sampling(config.max_new_tokens)
    found = complete(it.lm, [prompt.ids for prompt in asked], how, derive(config.seed, "best of n"))
    answers = [prompt.answered(c.text, c.stop_reason != "length") for prompt, c in zip(asked, found, strict=True)]
    scores = scores_of(it.scorer, answers, [prompt.where for prompt in asked], config.scorer_timeout, config.no_end)
    k = it.samples
    return [
        {
            "prompt": prompt.text, "turns": [{"role": turn.role, "content": turn.content} for turn in prompt.turns],
            "where": prompt.where, "answers": [a.text for a in answers[i * k : i * k + k]], "scores": scores[i * k : i * k + k],
        }
        for i, prompt in enumerate(prompts)
    ]  # fmt: skip


def predictions(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each prompt with its best answer; of equal scores the earlier."""
    found = []
    for row in rows:
        best = max(range(len(row["scores"])), key=row["scores"].__getitem__)
        found.append(
            {"prompt": row["prompt"], "where": row["where"], "answer": row["answers"][best], "score": row["scores"][best]}
        )
    return found


def rankings(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the different answers to each prompt with their scores, as a file of preferences has them."""
    found = []
    for row in rows:
        scores = {answer: score for answer, score in zip(row["answers"], row["scores"], strict=True) if answer.strip()}
        if len(scores) > 1:
            found.append({"prompt": row["turns"] or row["prompt"], "completions": [*scores], "scores": [*scores.values()]})
    return found


def curve(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, float]]:
    """Return the mean score of the best of n answers against how far that is from the policy, n = 1, 2, 4, ...

    Each is the mean over all n-subsets of a prompt's answers, with its 95 % interval over prompts (bootstrap).
    """
    most = len(rows[0]["scores"])
    counts = bootstrap.resample_counts(len(rows), _RESAMPLES, seed)
    found = []
    for n in sorted({*(1 << i for i in range(most.bit_length())), most}):
        worth = np.array([best_of_n.expected(row["scores"], n) for row in rows])
        low, high = bootstrap.interval(counts @ worth / len(rows))
        found.append({"n": n, "kl": best_of_n.kl(n), "score": float(worth.mean()), "low": low, "high": high})
    return found


def choose(config: Config, folder: Path) -> dict[str, Any]:
    """Answer every prompt several times and keep the answers the scorer likes best; nothing is trained.

    `predictions.jsonl` has the best answers, `rankings.jsonl` all different ones with their scores, to learn from;
    `report.json` and `report.html` what that is worth.

    Returns:
        status, run_dir, predictions, rankings, seconds, wall_seconds, peak_memory_gb, prompts, samples, kl, score_before,
        score, curve, warnings.
    """
    start = time.monotonic()
    it = ready(config)
    run_of(config, folder, it.lm, it.fingerprint, {"scorer_attacked": it.attacked})
    say(f"{len(it.prompts):,} prompts; {it.samples} answers each of at most {config.max_new_tokens} tokens")
    begin = time.monotonic()
    rows = answered(it, config, folder)
    seconds = time.monotonic() - begin
    best = predictions(rows)
    write_jsonl(folder / "predictions.jsonl", best)
    write_jsonl(folder / "rankings.jsonl", rankings(rows))
    points = curve(rows, config.seed)
    report = {
        "status": "done", "run_dir": str(folder), "predictions": str(folder / "predictions.jsonl"),
        "rankings": str(folder / "rankings.jsonl"), "seconds": seconds, "wall_seconds": time.monotonic() - start,
        "peak_memory_gb": peak_gb(), "prompts": len(rows), "samples": it.samples, "kl": points[-1]["kl"],
        "score_before": points[0]["score"], "score": points[-1]["score"], "curve": points, "warnings": it.warnings,
    }  # fmt: skip
    write_best_page(folder, config, it.lm, report, best)
    return report
