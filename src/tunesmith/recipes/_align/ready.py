"""An alignment about to begin: the policy with its adapter and value head, its prompts, its scorer and its loss."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from tunesmith.core.encode import token_ids, with_bos
from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical, text_hash
from tunesmith.core.registry import ALIGNERS, PEFT
from tunesmith.data import formats
from tunesmith.data.collate import Batch
from tunesmith.models.beginnings import same_prompts
from tunesmith.models.decoder import before, hidden_states
from tunesmith.models.generate import Sampling
from tunesmith.models.lm_loss import loss_of_hidden
from tunesmith.models.load import LM
from tunesmith.models.operations import LogProbs
from tunesmith.models.value_head import Values
from tunesmith.objectives import clipped_value
from tunesmith.recipes._adapt import attach
from tunesmith.recipes._align.config import Config
from tunesmith.recipes._align.kept import Kept
from tunesmith.recipes._align.prompts import read_prompts
from tunesmith.recipes._align.values import value_function
from tunesmith.recipes._align.watch import Watch
from tunesmith.recipes._models import load, quiet_libraries, use_threads
from tunesmith.recipes._reward.attacks import require_sound
from tunesmith.recipes._reward.files import trunk_of
from tunesmith.recipes._reward.scoring import open_scorer
from tunesmith.rl.kl import Controller
from tunesmith.train.engines.local import LossOf
from tunesmith.train.pushed import Pushed
from tunesmith.train.rollout_workers import Workers
from tunesmith.train.rollouts import ADVANTAGE, LENGTH, RETURN, VALUE, Judges, Rollouts, Sampler, Texts
from tunesmith.train.training import Training

_LONGEST_TEXT = 128


@dataclass(frozen=True)
class Ready:
    """An alignment about to begin.

    Attributes:
        method: peft entry and its parameters. fingerprint: hash of the prompts. attacked: how the scorer stood attacks.
    """

    lm: LM
    method: tuple[ModuleType, Any]
    training: Training
    rollouts: Rollouts
    watch: Watch
    fingerprint: str
    warnings: list[str]
    attacked: dict[str, Any]

    @property
    def elsewhere(self) -> AbstractContextManager[Any]:
        """A with-block inside which rounds can be sampled where they are to be."""
        return self.rollouts.sampler.elsewhere or nullcontext()


def ready(config: Config, folder: Path) -> Ready:
    """Load the policy, read prompts, open the scorer and attach what is trained.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    quiet_libraries()
    use_threads(config.threads)
    aligner, parameters = ALIGNERS.parameters(config.method)
    entry, peft = PEFT.parameters(config.peft)
    samples, passes = _samples(config, aligner), config.optimisation_epochs or aligner.PASSES
    if entry.SAVES != "adapter":
        raise UserError("align trains an adapter, for the reference is the model with the adapter off", "Use --peft lora.")
    lm = load(config.model, dtype=config.dtype)
    assert config.scorer is not None
    scorer = open_scorer(config.scorer, trunk_of((entry, peft), lm))
    prompts, warnings = read_prompts(config, lm)
    texts = read_texts(config, lm, warnings) if config.ptx else None
    sampling = Sampling(config.max_new_tokens, ignore_end=config.fixed_length, whole_prompts=True)
    attacked = require_sound(scorer, lm, prompts, sampling, config.seed, config.allow_attackable, config.scorer_timeout)
    judges = Judges(
        scorer, open_scorer(config.held_out, trunk_of((entry, peft), lm)) if config.held_out else None, config.scorer_timeout,
        config.no_end, config.end_at, config.end_after,
    )  # fmt: skip
    values = value_function(lm, (entry, peft), parameters, config) if aligner.HAS_VALUES else None
    sampler = Sampler(
        lm, prompts, judges, lambda it: aligner.credit(it, parameters), lambda: entry.disabled(lm.model),
        sampling, config.rollouts // samples, samples, passes,
        values, texts, entry.IDENTITY_AT_START, _elsewhere(config, (entry, peft), folder),
    )  # fmt: skip
    how_far, watch = Controller(config.beta, config.kl_target), Watch(folder / "rollouts", config.stop_on, config.max_kl)
    if aligner.LEARNS_FROM == "answers":
        rollouts: Rollouts = Kept(sampler, how_far, folder / "rollouts", config.seed, watch, parameters.keep)
    else:
        rollouts = Rollouts(sampler, how_far, folder / "rollouts", config.seed, watch)
    batch = config.batch_size if "batch_size" in config.model_fields_set else aligner.MINIBATCH or len(rollouts)
    batch = min(batch, len(rollouts))
    per_round = -(-len(rollouts) // batch) * passes
    how = config.model_copy(update={
        "batch_size": batch, "max_steps": config.steps * per_round, "evaluations": 0,
        "learning_rate": config.learning_rate or aligner.LEARNING_RATE,
    })  # fmt: skip
    training = attach(lm, (entry, peft), rollouts, how, config.seed, _loss(lm, aligner, parameters, config, values))
    training = _with_values(training, values) if values else training
    learned = [list(p.ids) for p in prompts] + [list(ids) for ids in (texts.ids if texts else [])]
    return Ready(lm, (entry, peft), training, rollouts, watch, text_hash(canonical(learned)), warnings, attacked)


def _samples(config: Config, aligner: ModuleType) -> int:
    """Return how many answers each prompt of a round gets.

    Raises:
        UserError: rounds do not divide into so many, or the method cannot learn from them.
    """
    samples, least = config.samples or aligner.SAMPLES, aligner.LEAST_SAMPLES
    if config.rollouts % samples or samples < least:
        raise UserError(
            f"{config.rollouts} rollouts cannot be {samples} samples for each prompt",
            f"Choose --samples of {least} or more that divides --rollouts." if least > 1 else "Let --samples divide --rollouts.",
        )
    if config.rollouts < 2:
        raise UserError("one rollout a round says nothing about what is better", "Use --rollouts of two or more.")
    return samples


def _elsewhere(config: Config, method: tuple[ModuleType, Any], folder: Path) -> Workers | Pushed | None:
    """Return who samples rounds in the place of this process; None = nobody."""
    if config.rollout_url:
        return Pushed(config.rollout_url, method, folder)
    if not config.rollout_workers:
        return None
    base = partial(_base, config.model, config.dtype)
    return Workers(base, method, config.rollout_workers, config.threads, config.address)


def _base(model: str, dtype: str, threads: int) -> LM:
    """Open the policy's base in a worker."""
    quiet_libraries()
    use_threads(threads)
    return load(model, dtype=dtype)


def _with_values(training: Training, values: Values) -> Training:
    """Train a value function beside a policy; weights of the same name learn at the same rate."""
    rates = {f"value.{name}": rate for name, rate in training.rates.items() if f"value.{name}" in values.parameters}
    trained = {**training.parameters, **values.parameters}
    apart = frozenset(values.parameters if values.inside else ())
    return replace(training, parameters=trained, rates={**training.rates, **rates}, apart=apart)


def read_texts(config: Config, lm: LM, warnings: list[str]) -> Texts:
    """Read the texts of PPO-ptx: as many a round as rollouts, of each the first tokens.

    Raises:
        UserError: no such file, or a row without a text of two tokens.
    """
    ids, cut = [], 0
    for example in formats.good_rows(formats.sniff(Path(str(config.ptx))), [], skip_bad_rows=config.skip_bad_rows):
        text = example.fields.get("text")
        found = with_bos(lm.tokenizer, token_ids(lm.tokenizer, text)) if isinstance(text, str) else ()
        if len(found) < 2:
            raise UserError(f"{example.where}: the row has no text of two tokens to learn from", "Give a column text.")
        cut += len(found) > _LONGEST_TEXT
        ids.append(found[:_LONGEST_TEXT])
    if not ids:
        raise UserError(f"{config.ptx} has no texts", "Give it at least one.")
    if cut:
        warnings.append(f"of {cut:,} texts of --ptx the first {_LONGEST_TEXT} tokens are learned from")
    return Texts(ids, config.ptx_weight, config.rollouts)


def _loss(lm: LM, aligner: ModuleType, parameters: Any, config: Config, values: Values | None) -> LossOf:
    """Return the method's loss of a batch: of the policy, and of the value function where it has one, summed over tokens."""

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        assert batch.beside is not None
        ids, lengths, mask = batch.tensors(lm.device)
        beside = batch.beside.to(lm.device)
        prompts = same_prompts(ids, mask)
        hidden = hidden_states(lm.model, ids, lengths, before(mask), config.activation_checkpointing, prompts)
        # Ids and numbers side by side, for the loss is summed piece by piece; up to 2^53 a double holds an id exactly.
        wanted = torch.cat([ids[:, 1:][mask[:, 1:]][:, None].double(), beside.double()], 1)

        def of_logits(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
            logprobs, beside = LogProbs.apply(logits, wanted[:, 0].long()), wanted[:, 1:].float()
            answers = beside[:, LENGTH] > 0
            if bool(answers.all()):
                return aligner.policy_loss(logprobs, beside, parameters)
            texts = -(logprobs * beside[:, ADVANTAGE])[~answers].sum()
            loss, stats = aligner.policy_loss(logprobs[answers], beside[answers], parameters)
            return loss + texts, {**stats, "ptx_loss": float(texts.detach())}

        loss, stats = loss_of_hidden(lm.model, hidden, wanted, of_logits)
        if values:
            if values.inside:
                with values.inside():
                    hidden = hidden_states(lm.model, ids, lengths, before(mask), of_prompt=prompts)
            answers = beside[:, LENGTH] > 0
            old, returns = beside[answers, VALUE], beside[answers, RETURN]
            value, _ = clipped_value.loss(values.head(hidden[answers]), old, returns, parameters.value_clip)
            stats["value_loss"] = float(value.detach())
            loss = loss + parameters.value_weight * value
        return loss, {k if k in ("value_loss", "ptx_loss") else f"policy_{k}": v for k, v in stats.items()}

    return loss_of
