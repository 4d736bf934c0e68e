"""The judgements that a reward model learns from, is chosen by and is measured on; no prompt and no text on two sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.core.errors import UserError
from tunesmith.core.files import canonical, text_hash
from tunesmith.core.records import Preference
from tunesmith.core.seeds import derive
from tunesmith.data.preferences import read_preferences
from tunesmith.data.sources import _bigbench
from tunesmith.data.task import load_task, names_task, require_permission
from tunesmith.recipes._reward.config import Config
from tunesmith.recipes._reward.rated import Rated, drawn

# Fewer cannot be learned from, or measured on, at all.
_FEWEST_TRAIN, _FEWEST_TEST = 8, 2
_MANY_PROMPTS = 10
_VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Judgements:
    """What a reward model learns from and is measured on.

    Attributes:
        rated: the test texts of a rated task with every rater's score; None for files.
        canary: the rows carry one.
    """

    train: list[Preference]
    validation: list[Preference]
    test: list[Preference]
    warnings: list[str]
    rated: Rated | None = None
    canary: bool = False

    @property
    def fingerprint(self) -> str:
        """Hash of all judgements, by side."""
        return text_hash(*(canonical([p.id for p in part]) for part in (self.train, self.validation, self.test)))

    def describe(self) -> str:
        """Say what there is to learn from."""
        texts = sum(len(p.completions) for p in self.train)
        return (
            f"{len(self.train):,} judgements of {texts:,} completions to learn from, {len(self.validation):,} to choose by, "
            f"{len(self.test):,} to test on"
        )


def decided(preference: Preference) -> bool:
    """Whether a judgement orders anything."""
    return len(set(preference.ranks)) > 1


def read_judgements(config: Config) -> Judgements:
    """Read or draw what `config.data` names, and part it.

    Raises:
        UserError: no such file or task, no ratings, or too few judgements that order anything.
    """
    if config.map and (config.data.startswith(_bigbench.PREFIX) or names_task(config.data)):
        raise UserError("map: this is for a file with columns of other names", "Leave it out: a task knows its columns.")
    if config.data.startswith(_bigbench.PREFIX):
        require_permission(config.data, config.allow_canary)
        found = _parted(config, _bigbench.preferences(config.data), [])
        found = Judgements(found.train, found.validation, found.test, found.warnings, canary=True)
    elif names_task(config.data):
        found = _from_ratings(config)
    else:
        if given := {"comparisons", "completions"} & config.model_fields_set:
            raise UserError(f"{', '.join(sorted(given))}: these are for a task with ratings", "A file has its own judgements.")
        if not Path(config.data).is_file():
            raise UserError(f"there is no file or task '{config.data}'", "Give a file of preferences, or a rated task: movies.")
        preferences, warnings = read_preferences(
            Path(config.data), skip_bad_rows=config.skip_bad_rows, mapping=config.map or None
        )
        found = _parted(config, preferences, list(warnings))
    _check(config, found)
    return found


def _from_ratings(config: Config) -> Judgements:
    task = load_task(config.data, skip_bad_rows=config.skip_bad_rows)
    splits, field = task.splits, task.template.fields[0]
    train, held_out, test = (Rated.of(part, field) for part in (splits.train, splits.validation, splits.test))
    # The test is the same whatever seed a training has, so that models can be compared.
    return Judgements(
        drawn(train, min(config.comparisons, config.train_rows or config.comparisons), config.completions, config.seed),
        drawn(held_out, config.validation_rows, 2, 0),
        drawn(test, config.test_rows, 2, 0, once=True),
        list(splits.warnings), test,
    )  # fmt: skip


def _parted(config: Config, preferences: Sequence[Preference], warnings: list[str]) -> Judgements:
    """Part the judgements of a file by prompt; where nearly all have the same prompt, by text."""
    usable = [p for p in preferences if len(p.completions) > 1 or p.ratings is not None]
    if len(usable) < len(preferences):
        warnings.append(f"{len(preferences) - len(usable):,} judgements of a single completion have no order to learn")
    by_prompt = len({_key(p) for p in usable}) >= _MANY_PROMPTS
    parts: dict[str, list[Preference]] = {"train": [], "validation": [], "test": [], "mixed": []}
    for preference in usable:
        keys = [_key(preference)] if by_prompt else [" ".join(text.split()).casefold() for text in preference.completions]
        sides = {_side(key, config.test_share) for key in keys}
        parts[sides.pop() if len(sides) == 1 else "mixed"].append(preference)
    if parts["mixed"]:
        warnings.append(
            f"{len(parts['mixed']):,} judgements compare texts of training with texts of the test and were left out: "
            "there are too few prompts to part them by prompt"
        )
    shuffled = {name: sorted(rows, key=lambda p: text_hash("order", p.id)) for name, rows in parts.items()}
    held_out = shuffled["validation"]
    train = [*shuffled["train"], *held_out[config.validation_rows :]]
    return Judgements(
        train[: config.train_rows], held_out[: config.validation_rows], shuffled["test"][: config.test_rows], warnings
    )


def _key(preference: Preference) -> str:
    """Return what says whether two prompts are the same one."""
    prompt = preference.prompt
    turns = [prompt] if isinstance(prompt, str) else [f"{m.role}: {m.content}" for m in prompt]
    return canonical([" ".join(turn.split()).casefold() for turn in turns])


def _side(key: str, test_share: float) -> str:
    share = derive(0, "side", key) % 10_000 / 10_000
    return (
        "test" if share < test_share else "validation" if share < test_share + _VALIDATION_SHARE * (1 - test_share) else "train"
    )


def _check(config: Config, found: Judgements) -> None:
    rated = config.objective in ("regression", "ordinal")
    usable = [p for p in found.train if (p.ratings is not None if rated else decided(p) or config.ties != "drop")]
    if found.train and not usable:
        raise UserError(
            f"none of the {len(found.train):,} judgements has a rating" if rated
            else f"all {len(found.train):,} judgements are ties, which say nothing about what is better",
            "Use --objective kwise." if rated else "Look at how they were made: chosen and rejected may be equally ranked.",
        )  # fmt: skip
    for part, rows, fewest in (("train on", usable, _FEWEST_TRAIN), ("test on", [*filter(decided, found.test)], _FEWEST_TEST)):
        if len(rows) < fewest:
            raise UserError(
                f"{config.data} has {len(rows)} judgements that can be used to {part}, and {fewest} are the least",
                "Collect more; a few hundred begin to be useful. --test_share says how many are for the test.",
            )
    if found.validation and not any(map(decided, found.validation)):
        raise UserError("no judgement for validation orders anything", "Set --validation_rows 0, or give more of them.")
