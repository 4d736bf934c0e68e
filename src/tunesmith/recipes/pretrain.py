"""Go on pre-training on your own texts: an encoder fills gaps (mlm), a decoder goes on (clm), an encoder-decoder both (span).

Whatever the labels are, text of the right kind makes a model better at it (Gururangan et al. 2020). An encoder without a
head for masked tokens, such as minilm, gets one here, with its embedding table as output weights.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.core.memory import peak_gb
from tunesmith.core.progress import say
from tunesmith.core.runs import Run
from tunesmith.recipes._command import command_of
from tunesmith.recipes._pretrain.config import Config
from tunesmith.train.parameters import HARMLESS

if TYPE_CHECKING:
    from tunesmith.recipes._pretrain.ready import Ready

POSITIONAL = "data"
EXAMPLES = (
    "tunesmith pretrain tweets,products,editorials --model minilm",
    "tunesmith pretrain notes.txt --objective mlm --whole_words",
    "tunesmith pretrain notes.txt --objective clm --replay 0.1",
    "tunesmith pretrain notes.txt --objective span --model toy-t5",
)
MODELS = {"mlm": "minilm", "clm": "smollm2", "span": "toy-t5"}


def run(config: Config) -> dict[str, Any]:
    """Train, save the model with its head, and report what it predicts better.

    Returns:
        status, run_dir, artefact, seconds, wall_seconds, peak_memory_gb, tokens, tokens_per_second, supervised_tokens,
        trained_parameters, steps, final_loss, validation, sources (name -> in_domain, documents, held_out, loss_before,
        loss_after, perplexity_before, perplexity_after), warnings.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
        WorkFailed: a non-finite loss or gradient. Interrupted: a signal; the step was finished and saved.
    """
    from tunesmith.peft import full
    from tunesmith.recipes._adapt import train
    from tunesmith.recipes._artefact import save_artefact
    from tunesmith.recipes._memory import require_memory
    from tunesmith.recipes._pretrain.ready import ready
    from tunesmith.recipes._tune.page import TunePage
    from tunesmith.train.fit import Validation

    start = time.monotonic()
    folder = folder_of(config)
    config = config.model_copy(update={"run_dir": str(folder), "model": config.model or MODELS[config.objective]})
    it = ready(config)
    require_memory(it.training, config.evaluations > 0, config.max_memory_gb)
    about = {"command": command_of("pretrain", config.data, config), "parents": []}
    record = Run(folder, _inputs(config, it), about, config.overwrite or not config.resume)
    say(f"{it.corpus.describe()}; {config.objective} on {config.model}, {str(it.lm.dtype).removeprefix('torch.')}")
    with TunePage(folder, config, config.objective, it.lm, it.training.data, it.corpus.warnings) as page:
        before = it.losses()
        it.lm.model.train()
        adapted = train(it.lm, it.training, record, Validation(it.loss, "eval_loss", larger_is_better=False))
        artefact = save_artefact(folder, it.lm, (full, full.Parameters()), [], "Pre-training")
        fitted = adapted.fitted
        report = {
            "status": "done", "run_dir": str(folder), "artefact": str(artefact), "seconds": fitted.seconds,
            "wall_seconds": time.monotonic() - start, "peak_memory_gb": peak_gb(), "tokens": fitted.tokens,
            "tokens_per_second": fitted.tokens / max(fitted.seconds, 1e-9), "supervised_tokens": fitted.supervised_tokens,
            "trained_parameters": adapted.trained_parameters, "steps": fitted.steps, "final_loss": fitted.losses[-1],
            "validation": fitted.best, "sources": _compared(it, before), "warnings": it.corpus.warnings,
        }  # fmt: skip
        page.finish(report)
    return report


def folder_of(config: Config) -> Path:
    """Return the run directory."""
    names = "-".join(Path(name).name.split(".")[0] for name in config.sources)
    return Path(config.run_dir or f"runs/pretrain-{config.objective}-{names}")


def _inputs(config: Config, it: Ready) -> dict[str, Any]:
    """Return all that the trained weights follow from; a run directory made from other inputs is not continued."""
    return {**config.model_dump(exclude=set(HARMLESS)), "model_identity": it.lm.identity, "rows": it.corpus.fingerprint}


def _compared(it: Ready, before: dict[str, float]) -> dict[str, dict[str, float]]:
    after = it.losses()
    return {
        name: {
            "in_domain": name not in it.corpus.outside, "documents": it.corpus.documents[name],
            "held_out": len(it.held_out[name]), "loss_before": before[name], "loss_after": after[name],
            "perplexity_before": math.exp(before[name]), "perplexity_after": math.exp(after[name]),
        }
        for name in before
    }  # fmt: skip


def render(report: dict[str, Any]) -> str:
    """Return what a person wants to know after a pre-training."""
    lines = [
        f"{name}{'' if source['in_domain'] else ' (out of domain)'}: perplexity on {source['held_out']:,} held-out rows "
        f"{source['perplexity_before']:,.1f} -> {source['perplexity_after']:,.1f} ({source['documents']:,} documents)"
        for name, source in report["sources"].items()
    ]
    return "\n".join([
        *lines,
        f"{report['steps']} steps, {report['tokens']:,} tokens at {report['tokens_per_second']:,.0f} tokens/s, "
        f"peak {report['peak_memory_gb']:.1f} GB",
        f"saved to {report['artefact']}",
    ])  # fmt: skip
