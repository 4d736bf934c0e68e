"""Align a policy with scores of its own answers (PPO, RLOO, GRPO, best of n), or with judgements (DPO, IPO, KTO, ORPO)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tunesmith.core.memory import peak_gb
from tunesmith.core.progress import say
from tunesmith.core.registry import ALIGNERS, PEFT, SCORERS
from tunesmith.recipes._align.config import Config

POSITIONAL = "data"
ENTRIES = {"method": ALIGNERS, "peft": PEFT, "scorer": SCORERS}
EXAMPLES = (
    "tunesmith align movies --scorer lexicon --prompt_tokens 8 --allow_attackable",
    "tunesmith align prompts.jsonl --method rloo --scorer scorer.py:score",
    "tunesmith align pairs.jsonl --method dpo --method.sft_weight 0.1",
    "tunesmith align prompts.jsonl --method best-of-n --scorer scorer.py:score",
)


def run(config: Config) -> dict[str, Any]:
    """Train the policy, save its adapter, and report how score and divergence went; else what `_align` says.

    Returns:
        status, run_dir, artefact, model, seconds, wall_seconds, peak_memory_gb, rollouts, rollouts_per_second, kl, score_before,
        score, held_out_before, held_out, trained_parameters, rounds, steps, tokens, stopped, warnings.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
        WorkFailed: a score, loss or gradient is not finite. Interrupted: a signal; the step was finished and saved.
    """
    from tunesmith.recipes._adapt import train
    from tunesmith.recipes._align.health import broken
    from tunesmith.recipes._align.page import rounds_of, write_page
    from tunesmith.recipes._align.ready import ready
    from tunesmith.recipes._align.record import run_of
    from tunesmith.recipes._artefact import save_artefact
    from tunesmith.recipes._memory import require_memory

    learns_from = ALIGNERS.parameters(config.method)[0].LEARNS_FROM
    if learns_from in ("pairs", "texts", "nothing"):
        from tunesmith.recipes._align.best import choose
        from tunesmith.recipes._align.offline import learn

        return (choose if learns_from == "nothing" else learn)(config, folder_of(config))
    start, folder = time.monotonic(), folder_of(config)
    it = ready(config, folder)
    require_memory(it.training, False, config.max_memory_gb, it.lm.model)
    record = run_of(config, folder, it.lm, it.fingerprint, {"scorer_attacked": it.attacked})
    if not (folder / "checkpoints").is_dir():
        for path in sorted((folder / "rollouts").glob("*.json")):
            path.unlink()
    prompts = len(it.rollouts.sampler.prompts)
    say(f"{prompts:,} prompts; {config.rollouts} rollouts a round of at most {config.max_new_tokens} tokens")
    with it.elsewhere:
        adapted = train(it.lm, it.training, record)
    probe = [prompt.ids for prompt in it.rollouts.sampler.prompts[:3]]
    artefact = save_artefact(folder, it.lm, it.method, probe, "Alignment")
    rounds = rounds_of(folder)
    seconds = sum(sum(v for k, v in row.items() if k.startswith("seconds_")) for row in rounds) + adapted.fitted.seconds
    report = {
        "status": "done", "run_dir": str(folder), "artefact": str(artefact), "model": config.model,
        "seconds": seconds,
        "wall_seconds": time.monotonic() - start, "peak_memory_gb": peak_gb(), "rollouts": len(rounds) * config.rollouts,
        "rollouts_per_second": len(rounds) * config.rollouts / seconds, "kl": rounds[-1]["kl"],
        "score_before": rounds[0]["score"], "score": rounds[-1]["score"], "held_out_before": rounds[0].get("held_out"),
        "held_out": rounds[-1].get("held_out"), "trained_parameters": adapted.trained_parameters, "rounds": len(rounds),
        "steps": adapted.fitted.steps, "tokens": adapted.fitted.tokens,
        "stopped": it.watch.reason(rounds) if adapted.fitted.stopped_early else "",
        "warnings": it.warnings + list(broken(rounds).values()),
    }  # fmt: skip
    write_page(folder, config, it.lm, rounds, report)
    return report


def folder_of(config: Config) -> Path:
    """Return the run directory."""
    name = ALIGNERS.parameters(config.method)[0].__name__.rpartition(".")[2]
    return Path(config.run_dir or f"runs/align-{name}-{Path(config.data).name.split('.')[0]}")


def render(report: dict[str, Any]) -> str:
    """Return what a person wants to know after an alignment."""
    from tunesmith.recipes._align.rendered import best, learned, saved

    if "judgements" in report or "curve" in report:
        return best(report) if "curve" in report else learned(report)
    held_out = report["held_out"]
    lines = [
        f"score {report['score_before']:.3f} -> {report['score']:.3f} at {report['kl']:.2f} nats an answer from the reference",
        *([f"held out {report['held_out_before']:.3f} -> {held_out:.3f}"] if held_out is not None else []),
        f"{report['rollouts']:,} rollouts, {report['rollouts_per_second']:.1f} a second, peak {report['peak_memory_gb']:.1f} GB",
        *([f"stopped after {report['rounds']} rounds: {report['stopped']}"] if report["stopped"] else []),
        *saved(report),
    ]
    return "\n".join(lines)
