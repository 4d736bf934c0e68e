"""An alignment from judgements that are there already: encode, ask the reference once, train, and measure on held-out prompts."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical, text_hash, write_json
from tunesmith.core.memory import peak_gb
from tunesmith.core.progress import say
from tunesmith.core.records import Encoded
from tunesmith.core.registry import ALIGNERS, PEFT
from tunesmith.core.runs import Run
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch
from tunesmith.data.preferences import read_preferences
from tunesmith.models.load import LM
from tunesmith.recipes._adapt import attach, train
from tunesmith.recipes._align.config import Config
from tunesmith.recipes._align.judged import (
    REFERENCE,
    JudgedPrompt,
    as_read,
    by_prompt,
    encode_answer,
    encode_row,
    judged,
    log_probabilities,
    pair_targets,
    text_targets,
    with_beside,
)  # fmt: skip
from tunesmith.recipes._align.measured import before_and_after, divergence, fallen
from tunesmith.recipes._align.others import WithOthers, others_of
from tunesmith.recipes._align.record import run_of
from tunesmith.recipes._artefact import save_artefact
from tunesmith.recipes._judgements import check, verdicts
from tunesmith.recipes._memory import require_memory
from tunesmith.recipes._models import load, quiet_libraries, use_threads
from tunesmith.recipes._tune.page import TunePage
from tunesmith.train.engines.local import LossOf
from tunesmith.train.training import Training

_LEARNING_RATE = 1e-4
_KEPT = "reference.json"


@dataclass(frozen=True)
class ReadyOffline:
    """A model, what it learns from and what it is measured on.

    Attributes:
        aligner: entry and parameters of the method; method: those of what is trained.
        rows: prompts learned from; held_out: those it is measured on, and asked: what was judged of these.
        fingerprint: hash of all that is learned from. reference: what it said, to be kept, and the time it took.
    """

    lm: LM
    aligner: tuple[ModuleType, Any]
    method: tuple[ModuleType, Any]
    training: Training
    rows: Sequence[Encoded]
    held_out: Sequence[Encoded]
    asked: Sequence[JudgedPrompt]
    fingerprint: str
    warnings: list[str]
    reference: dict[str, Any] = field(default_factory=dict)
    reference_seconds: float = 0.0

    @property
    def judgements(self) -> int:
        """How many are learned from."""
        return sum(row.counted for row in self.rows)

    @property
    def pairs(self) -> bool:
        """Whether targets are comparisons."""
        return self.aligner[0].LEARNS_FROM == "pairs"


def ready(config: Config, folder: Path) -> ReadyOffline:
    """Load the policy, read and encode judgements, ask the reference, and attach what is trained.

    Args:
        folder: of the run, where the reference's log-probabilities are kept.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    quiet_libraries()
    use_threads(config.threads)
    entry, parameters = ALIGNERS.parameters(config.method)
    method = PEFT.parameters(config.peft)
    if method[0].SAVES != "adapter":
        raise UserError("align trains an adapter, for the reference is the model with the adapter off", "Use --peft lora.")
    judgements, warnings = read_preferences(Path(config.data), skip_bad_rows=config.skip_bad_rows, mapping=config.map or None)
    warnings += verdicts(check(judgements))
    asked, said = _usable(config, by_prompt(judgements[: config.train_rows]), entry, parameters)
    lm = load(config.model, dtype=config.dtype)
    rows, asked, dropped = _encoded(config, lm, asked, entry, parameters)
    fingerprint = text_hash(canonical([[row.ids, row.loss_mask, row.targets] for row in rows]))
    train, held = _split(config, asked)
    others = others_of(lm, asked, rows, config.seed) if entry.LEARNS_FROM == "texts" else []
    kept, seconds = dict[str, Any](), 0.0
    if entry.HAS_REFERENCE:
        every = [*rows, *others]
        named = text_hash(fingerprint, lm.identity, str(lm.dtype), str(len(every)))
        begin = time.perf_counter()
        every, kept = _with_reference(config, lm, every, folder, named)
        seconds = time.perf_counter() - begin
        rows, others = every[: len(rows)], every[len(rows) :]
    data: Sequence[Encoded] = [rows[i] for i in train]
    if others:
        data = WithOthers(lm, data, [others[i] for i in train], config)
    how = config.model_copy(update={"learning_rate": config.learning_rate or _LEARNING_RATE, "evaluations": 0})
    if others:
        how = how.model_copy(update={"max_steps": how.max_steps or max(round(len(train) * how.epochs / len(data)), 1)})
    training = attach(lm, method, data, how, config.seed, loss_of(lm, entry, parameters, config.activation_checkpointing))
    held_rows = [rows[i] for i in held]
    return ReadyOffline(
        lm, (entry, parameters), method, training, [rows[i] for i in train], held_rows, [asked[i] for i in held],
        fingerprint, [*warnings, *said, *dropped], kept, seconds,
    )  # fmt: skip


def loss_of(lm: LM, entry: ModuleType, parameters: Any, activation_checkpointing: bool) -> LossOf:
    """Return a method's loss of a batch, summed over targets, and what is watched beside it, summed likewise.

    Of pairs that is log p of both completions and how much more the preferred one gained (0 of a tie), nats; of completions
    judged by themselves how much they gained where wanted and lost where not, and what others gain anyway.
    """
    pairs = entry.LEARNS_FROM == "pairs"

    def of_batch(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        it = judged(lm, batch, pairs, activation_checkpointing)
        loss, stats = entry.loss(it, parameters)
        said, gains = it.logprobs.detach(), it.gains.detach()
        if not pairs:
            signed = torch.where(it.wanted, 1.0, -1.0) * gains[it.judged]
            found = {"accuracy": stats["correct"], "margin": float(signed.sum()), "anyway": float(it.anyway.sum())}
            return loss, found
        first, second = said[it.first], said[it.second]
        mean = (first + second) / 2
        found = {
            "chosen_logprob": float(torch.where(it.tie, mean, first).sum()),
            "rejected_logprob": float(torch.where(it.tie, mean, second).sum()),
            "accuracy": stats["correct"],
        }
        if entry.HAS_REFERENCE:
            apart = torch.where(it.tie, 0.0, gains[it.first] - gains[it.second])
            found |= {"accuracy": float((apart > 0).sum()), "margin": float(apart.sum())}
        return loss, found

    return of_batch


def _usable(
    config: Config, asked: list[JudgedPrompt], entry: ModuleType, parameters: Any
) -> tuple[list[JudgedPrompt], list[str]]:
    """Return the prompts that this method can learn from, and what to say about the others.

    Raises:
        UserError: there are none.
    """
    if entry.LEARNS_FROM == "texts":
        kept = [one for one in asked if one.wanted]
        missing, fix = "completion that was wanted or not", "Give rows with a label, or pairs."
    else:
        kept = [one for one in asked if pair_targets(one, _ties(parameters))]
        missing = "pair" if _ties(parameters) else "pair of which one was preferred"
        fix = "Give prompt, chosen and rejected; for completions judged by themselves use --method kto."
    if not kept:
        raise UserError(f"{config.data} has no {missing}", fix)
    said = []
    if left := len(asked) - len(kept):
        said.append(f"{left:,} prompts without a {missing} were left out")
    ties = sum(tie for one in asked for _, _, tie in one.pairs)
    if ties and entry.LEARNS_FROM == "pairs" and not _ties(parameters):
        said.append(f"{ties:,} ties were left out" + _TIE_HINT.get(entry.__name__.rpartition(".")[2], ""))
    if entry.LEARNS_FROM == "texts":
        wanted = sum(sign for one in kept for _, sign in one.wanted)
        unwanted = sum(len(one.wanted) for one in kept) - wanted
        share = wanted * parameters.weight_wanted / max(unwanted * parameters.weight_unwanted, 1e-9)
        if not 0.99 <= share <= 1.34:
            said.append(
                f"{wanted:,} answers were wanted and {unwanted:,} were not; their weights should make up for that, with "
                "weight_wanted x wanted 1 to 4/3 of weight_unwanted x unwanted"
            )
    return kept, said


_TIE_HINT = {"dpo": "; --method.ties davidson learns from them"}


def _ties(parameters: Any) -> bool:
    return getattr(parameters, "ties", "drop") != "drop"


def _encoded(
    config: Config, lm: LM, asked: Sequence[JudgedPrompt], entry: ModuleType, parameters: Any
) -> tuple[list[Encoded], list[JudgedPrompt], list[str]]:
    """Encode each prompt's completions; also returns the prompts that are short enough, and what to say about others."""
    most = min(config.max_length, lm.context_length)
    rows, kept, long = list[Encoded](), list[JudgedPrompt](), list[tuple[int, str]]()
    for one in asked:
        try:
            texts = [encode_answer(lm, one.prompt, completion) for completion in one.completions]
        except UserError as error:
            raise UserError(f"{one.where}: {error.message}", error.fix) from None
        longest = max(len(ids) for ids, _ in texts)
        if any(len(ids) == length for ids, length in texts):
            raise UserError(f"{one.where}: the prompt has no tokens", "Give each row a prompt.")
        if longest > most:
            long.append((longest, one.where))
            continue
        targets = text_targets(one) if entry.LEARNS_FROM == "texts" else pair_targets(one, _ties(parameters))
        rows.append(encode_row(lm, texts, targets, one.where))
        kept.append(one)
    if long and (config.over_long == "stop" or not rows):
        length, where = max(long)
        raise UserError(
            f"{len(long):,} of {len(asked):,} prompts have a completion with which they are longer than {most:,} tokens "
            f"(the longest, {where}, has {length:,})", "Set a larger --max_length, or --over_long drop to leave them out.",
        )  # fmt: skip
    return rows, kept, [f"{len(long):,} prompts longer than {most:,} tokens were dropped"] if long else []


def _split(config: Config, asked: Sequence[JudgedPrompt]) -> tuple[list[int], list[int]]:
    """Return the numbers of prompts to learn from and of those to measure on; which is which follows from the seed."""
    count = min(round(len(asked) * config.test_share), len(asked) - 1)
    if config.test_share and len(asked) > 1:
        count = max(count, 1)
    order = torch.randperm(len(asked), generator=torch.Generator().manual_seed(derive(config.seed, "held out"))).tolist()
    return sorted(order[count:]), sorted(order[:count])


def _with_reference(
    config: Config, lm: LM, rows: Sequence[Encoded], folder: Path, fingerprint: str
) -> tuple[list[Encoded], dict[str, Any]]:
    """Ask the reference, which is the model before anything is attached, once; or read what it said where that is kept.

    Returns:
        The rows with its log-probabilities beside them, and what is to be kept of them in the run's folder.
    """
    path, kept = folder / _KEPT, dict[str, Any]()
    if path.is_file() and config.resume and not config.overwrite:
        kept = json.loads(path.read_text(encoding="utf-8"))
    if kept.get("fingerprint") != fingerprint:
        kept = {"fingerprint": fingerprint, "logprobs": log_probabilities(lm, rows, config.tokens_per_micro_batch)}
    return [with_beside(row, REFERENCE, some) for row, some in zip(rows, kept["logprobs"], strict=True)], kept


def keep_reference(it: ReadyOffline, folder: Path) -> None:
    """Write what the reference said into the run's folder, so that a resumed run need not ask again."""
    if it.reference and not (folder / _KEPT).is_file():
        write_json(folder / _KEPT, it.reference)


def learn(config: Config, folder: Path) -> dict[str, Any]:
    """Train the policy on judgements that are there, save its adapter, and report what held-out judgements say of it.

    Returns:
        status, run_dir, artefact, seconds, wall_seconds, peak_memory_gb, prompts, judgements, before, after, kl,
        trained_parameters, steps, tokens, tokens_per_second, final_loss, warnings. The seconds are those of updates and of
        asking the reference.
    """
    start = time.monotonic()
    it = ready(config, folder)
    require_memory(it.training, False, config.max_memory_gb, it.lm.model)
    record = run_of(config, folder, it.lm, it.fingerprint)
    keep_reference(it, folder)
    say(f"{it.judgements:,} judgements of {len(it.rows):,} prompts; {len(it.held_out):,} more prompts to measure on")
    name = it.aligner[0].__name__.rpartition(".")[2]
    with TunePage(folder, config, name, it.lm, [as_read(row) for row in it.rows[:3]], it.warnings, "align") as page:
        report = _learned(config, folder, it, record, start)
        page.finish(report)
    return report


def _learned(config: Config, folder: Path, it: ReadyOffline, record: Run, start: float) -> dict[str, Any]:
    fitted = (adapted := train(it.lm, it.training, record)).fitted
    artefact = save_artefact(folder, it.lm, it.method, [row.ids[:64] for row in it.rows[:3]], "Alignment")
    reference = lambda: it.method[0].disabled(it.lm.model)  # noqa: E731
    seconds = fitted.seconds + it.reference_seconds
    before, after = before_and_after(it.lm, it.asked, it.held_out, reference, it.pairs)
    return {
        "status": "done", "run_dir": str(folder), "artefact": str(artefact), "seconds": seconds,
        "wall_seconds": time.monotonic() - start, "peak_memory_gb": peak_gb(), "prompts": len(it.rows),
        "judgements": it.judgements, "before": before and before.as_dict(), "after": after and after.as_dict(),
        "kl": divergence(it.lm, it.asked, reference, config.max_new_tokens, config.seed),
        "trained_parameters": adapted.trained_parameters, "steps": fitted.steps, "tokens": fitted.tokens,
        "tokens_per_second": fitted.tokens / max(seconds, 1e-9), "final_loss": fitted.losses[-1],
        "warnings": it.warnings + (fallen(before, after) if before and after else []),
    }  # fmt: skip
