"""One reward model from judgements to a saved directory: what `reward` does once, or once for each seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from tunesmith.core.errors import UserError
from tunesmith.core.progress import say
from tunesmith.core.records import Encoded, Message, Preference
from tunesmith.core.registry import PEFT
from tunesmith.core.runs import Run
from tunesmith.core.seeds import derive
from tunesmith.models.generate import Sampling, complete
from tunesmith.models.load import LM, load
from tunesmith.recipes._adapt import Adapted, attach, train
from tunesmith.recipes._command import command_of
from tunesmith.recipes._memory import require_memory
from tunesmith.recipes._reward import losses
from tunesmith.recipes._reward.config import Config
from tunesmith.recipes._reward.files import save
from tunesmith.recipes._reward.measures import accuracy_of, measure
from tunesmith.recipes._reward.model import HEAD, Prompt, RewardModel, fresh
from tunesmith.recipes._reward.rows import Judgements, decided
from tunesmith.train.fit import Validation
from tunesmith.train.parameters import HARMLESS
from tunesmith.train.training import Training

# Two or three numbers that all judgements inform can learn faster than a matrix.
_RATE_OF_FITTED = 10.0
_MOST_PREFERRED = 500
_ENCODER_RATE = 5e-5


@dataclass(frozen=True)
class Trained:
    """A reward model that was trained, saved and measured.

    Attributes:
        rewards: of each completion of the test judgements; of_texts: of the rated test texts. rows: those that were used.
    """

    it: RewardModel
    adapted: Adapted
    artefact: Path
    measured: dict[str, Any]
    normalised: dict[str, Any]
    fitted: losses.Fitted
    rewards: list[list[float]]
    of_texts: list[float]
    rows: Judgements


@dataclass(frozen=True)
class Ready:
    """A reward model about to be trained.

    Attributes:
        rows: those that are not too long; learned: of their judgements what `training.data` has.
        method: peft entry and its parameters. samples: answers of the policy to normalise by.
    """

    it: RewardModel
    rows: Judgements
    learned: list[Preference]
    objective: str
    fitted: losses.Fitted
    method: tuple[ModuleType, Any]
    training: Training
    samples: list[tuple[Prompt, str]]
    normalised: dict[str, Any]


def ready(config: Config, rows: Judgements, seed: int) -> Ready:
    """Load the model, encode the judgements, normalise by answers of the policy if asked, and attach what is trained.

    Raises:
        UserError: the rows or settings do not fit the model.
    """
    it = fresh(config.model, config.dtype, seed)
    rows = _within(config, it, rows)
    objective = losses.objective_of(config, rows.train)
    learned = _usable(rows.train, objective, config)
    it.prompts = _kind_of_prompts(learned)
    fitted = losses.Fitted(objective, config.ties, learned)
    encoded = losses.encode(it, learned, objective)
    samples = policy_answers(config, it, rows) if config.normalise == "samples" else []
    normalised: dict[str, Any] = {"by": config.normalise}
    if samples:
        it.normalise(rewards := it.score(samples, "scoring"), deviation=True)
        it.trained_gain = it.gain
        normalised |= {"samples": len(samples), "before": _moments(rewards)}
    method = PEFT.parameters(config.peft or ("full" if it.encoder else "lora"))
    training = _training(config, it, fitted, method, encoded, objective, seed)
    return Ready(it, rows, learned, objective, fitted, method, training, samples, normalised)


def train_one(config: Config, rows: Judgements, folder: Path, seed: int) -> Trained:
    """Train, choose by validation rows, normalise, measure and save.

    Raises:
        UserError: the rows or settings do not fit the model. WorkFailed: something is not finite. Interrupted: a signal.
    """
    begun = ready(config, rows, seed)
    it, rows, fitted, normalised = begun.it, begun.rows, begun.fitted, dict(begun.normalised)
    require_memory(begun.training, bool(rows.validation), config.max_memory_gb, it.lm.model)
    record = _run(config, it, rows, folder, seed)
    say(f"{rows.describe()}; {begun.objective} on {config.model}, {str(it.lm.dtype).removeprefix('torch.')}")
    adapted = train(it.lm, begun.training, record, validation_of(it, rows.validation))
    anchors = begun.samples or _preferred(begun.learned) if config.normalise != "none" else []
    if anchors:
        rewards = it.score(anchors, "scoring")
        it.normalise(rewards, deviation=bool(begun.samples))
        normalised |= {"after": _moments(rewards), "gain": it.gain, "bias": it.bias, "of": len(anchors)}
    given = scored(it, rows.test, "test")
    of_texts = it.score([("", text) for text in rows.rated.texts], "rated texts") if rows.rated else []
    scale = it.trained_gain / it.gain
    rated = (rows.rated, of_texts) if rows.rated else None
    measured = measure(rows.test, given, scale, fitted, config.seed, rated)
    about = {
        "objective": begun.objective, "ties": config.ties, "fitted": fitted.as_record(), "normalised": normalised,
        "canary": rows.canary, "accuracy": measured["accuracy"], "judgements": len(begun.training.data),
    }  # fmt: skip
    probes = [(p.prompt, text) for p in rows.test[:2] for text in p.completions]
    artefact = save(folder, it, begun.method, probes, about)
    return Trained(it, adapted, artefact, measured, normalised, fitted, given, of_texts, rows)


def scored(it: RewardModel, preferences: Sequence[Preference], title: str = "") -> list[list[float]]:
    """Return the rewards of every completion of judgements."""
    flat = iter(it.score([(p.prompt, text) for p in preferences for text in p.completions], title))
    return [[next(flat) for _ in p.completions] for p in preferences]


def _kind_of_prompts(train: Sequence[Preference]) -> str:
    if any(not isinstance(p.prompt, str) for p in train):
        return "chat"
    return "text" if any(p.prompt for p in train) else "none"


def _usable(train: Sequence[Preference], objective: str, config: Config) -> list[Preference]:
    if objective in ("regression", "ordinal"):
        return [p for p in train if p.ratings is not None]
    return [p for p in train if decided(p) or config.ties != "drop"]


def _within(config: Config, it: RewardModel, rows: Judgements) -> Judgements:
    """Leave out or refuse judgements with a completion that is too long, whatever they are for.

    Raises:
        UserError: one is, and those are not to be dropped; or none is left.
    """
    most = min(config.max_length, it.lm.context_length)
    parts: dict[str, list[Preference]] = {}
    dropped = 0
    for name in ("train", "validation", "test"):
        given: list[Preference] = getattr(rows, name)
        lengths = [max(len(it.ids(p.prompt, text)) for text in p.completions) for p in given]
        parts[name] = [p for p, length in zip(given, lengths, strict=True) if length <= most]
        over = [(p, length) for p, length in zip(given, lengths, strict=True) if length > most]
        if over and (config.over_long == "stop" or not (parts[name] or name == "validation")):
            limit = "--max_length allows" if most == config.max_length else f"{it.lm.name} reads"
            raise UserError(
                f"{over[0][0].where}: a completion has {over[0][1]:,} tokens with its prompt, more than the {most:,} that "
                f"{limit} ({len(over):,} judgements have)",
                "Leave them out: --over_long drop; or take a model that reads more and raise --max_length.",
            )
        dropped += len(over)
    said = [f"{dropped:,} judgements with a completion of more than {most:,} tokens were dropped"] if dropped else []
    return replace(rows, **parts, warnings=[*rows.warnings, *said])


def _training(
    config: Config, it: RewardModel, fitted: losses.Fitted, method: tuple[ModuleType, Any], rows: list[Encoded],
    objective: str, seed: int,
) -> Training:  # fmt: skip
    entry, _ = method
    heads = ("classifier",) if it.encoder else (HEAD,)
    usual = _ENCODER_RATE if it.encoder and entry.SAVES == "model" else entry.LEARNING_RATE
    how = config.model_copy(update={"learning_rate": config.learning_rate or usual})
    if it.encoder and config.activation_checkpointing:
        it.lm.model.activation_checkpointing_enable({"use_reentrant": False})
    training = attach(it.lm, method, rows, how, seed, losses.loss_of(it, fitted, config), heads=heads)
    if not fitted.raw.numel():
        return training
    fitted.to(it.lm.device)
    parameters = {**training.parameters, "fitted": fitted.raw}
    return replace(training, parameters=parameters, rates={**training.rates, "fitted": _RATE_OF_FITTED})


def _run(config: Config, it: RewardModel, rows: Judgements, folder: Path, seed: int) -> Run:
    inputs = {
        **config.model_dump(exclude={*HARMLESS, "seeds", "seed", "test_rows"}), "seed": seed,
        "model_identity": it.lm.identity, "rows": rows.fingerprint,
    }  # fmt: skip
    about = {"command": command_of("reward", config.data, config), "parents": []}
    return Run(folder, inputs, about, config.overwrite or not config.resume)


def validation_of(it: RewardModel, held_out: Sequence[Preference]) -> Validation | None:
    """Return what is measured on held-out judgements: the share that is ordered as people did; None without any."""
    if not held_out:
        return None
    return Validation(lambda: accuracy_of(held_out, scored(it, held_out)), "eval_accuracy", larger_is_better=True)


def _moments(rewards: Sequence[float]) -> dict[str, float]:
    mean = sum(rewards) / len(rewards)
    return {"mean": mean, "deviation": (sum((r - mean) ** 2 for r in rewards) / len(rewards)) ** 0.5}


def _preferred(train: Sequence[Preference]) -> list[tuple[Prompt, str]]:
    return [(p.prompt, p.completions[p.ranks.index(1)]) for p in train[:_MOST_PREFERRED]]


def policy_answers(config: Config, it: RewardModel, rows: Judgements) -> list[tuple[Prompt, str]]:
    """Let the policy answer training prompts at temperature 1; where there are none, go on from the openings of completions.

    Raises:
        UserError: an encoder cannot answer, and no policy was named.
    """
    if it.encoder and not config.policy:
        raise UserError("an encoder writes no answers to be measured by", "Name who does: --policy smollm2.")
    lm = load(config.policy, config.dtype) if config.policy else it.lm
    prompts = _openings(config, lm, rows.train)
    chosen = [prompts[i % len(prompts)] for i in range(config.policy_samples)]
    say(f"{config.policy_samples:,} answers of {lm.name} to normalise by")
    how = Sampling(config.max_new_tokens)
    found = complete(lm, [ids for _, ids in chosen], how, derive(config.seed, "policy"))
    return [(prompt, answer.text) for (prompt, _), answer in zip(chosen, found, strict=True)]


def _openings(config: Config, lm: LM, train: Sequence[Preference]) -> list[tuple[Prompt, tuple[int, ...]]]:
    from tunesmith.core.encode import chat_prompt, token_ids, with_bos

    found: dict[tuple[int, ...], Prompt] = {}
    for preference in train:
        prompt = preference.prompt
        if isinstance(prompt, str):
            said = prompt or preference.completions[0]
            ids = with_bos(lm.tokenizer, token_ids(lm.tokenizer, said))
            if not prompt:
                ids = ids[: config.prompt_tokens]
                prompt = lm.tokenizer.decode(list(ids), skip_special_tokens=True)
        else:
            ids = chat_prompt(lm.tokenizer, [Message(m.role, m.content) for m in prompt])[1]
        if ids and len(ids) + config.max_new_tokens <= lm.context_length:
            found.setdefault(ids, prompt)
        if len(found) == config.policy_samples:
            break
    return [(prompt, ids) for ids, prompt in found.items()]
