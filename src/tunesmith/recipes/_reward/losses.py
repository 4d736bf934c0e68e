"""From judgements to rows, and from rewards to the loss of each objective; what is fitted beside the model is here too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise as pairwise_of
from typing import Any

import torch
from torch import nn

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded, Preference
from tunesmith.data.collate import Batch
from tunesmith.models.decoder_classifier import Texts
from tunesmith.objectives import best_of_k, davidson, kwise, ordinal, pairwise, rao_kupper, regression
from tunesmith.recipes._reward.config import Config
from tunesmith.recipes._reward.model import RewardModel
from tunesmith.train.engines.local import LossOf

# What a judgement says of each completion, beside its text.
_RANK, _RATING = 0, 1
_MOST_LEVELS = 50


class Fitted(nn.Module):
    """What is fitted with the rewards: how common ties are, or where the thresholds of ratings lie.

    `raw` is free; softplus makes of it what has to be positive. It begins at what the training judgements say without a model.
    """

    def __init__(self, objective: str, ties: str, train: Sequence[Preference]) -> None:
        super().__init__()
        self.objective, self.ties = objective, ties
        self.levels: list[float] = sorted({r for p in train for r in p.ratings or ()}) if _of_ratings(objective) else []
        self.mean, self.deviation = 0.0, 1.0
        start: list[float] = []
        if self.ties != "drop":
            start = [_inverse_softplus(max(_start_of_ties(ties, train), 0.02))]
        elif objective == "ordinal":
            start = self._thresholds_at_first(train)
        elif objective == "regression":
            given = torch.tensor([r for p in train for r in p.ratings or ()])
            self.mean, self.deviation = float(given.mean()), max(float(given.std(unbiased=False)), 1e-6)
        self.raw = nn.Parameter(torch.tensor(start))

    def _thresholds_at_first(self, train: Sequence[Preference]) -> list[float]:
        if not 2 <= len(self.levels) <= _MOST_LEVELS:
            raise UserError(
                f"the ratings have {len(self.levels)} different values, and ordinal ones have 2 to {_MOST_LEVELS}",
                "Use --objective regression.",
            )
        given = torch.tensor([self.levels.index(r) for p in train for r in p.ratings or ()])
        shares = torch.stack([(given <= level).float().mean() for level in range(len(self.levels) - 1)])
        cuts = torch.logit(shares.clamp(1e-3, 1 - 1e-3)).tolist()
        steps = [max(b - a, 0.02) for a, b in pairwise_of(cuts)]
        return [cuts[0], *map(_inverse_softplus, steps)]

    def tie_strength(self) -> torch.Tensor:
        """Davidson's nu (> 0) or Rao and Kupper's theta (> 1)."""
        return nn.functional.softplus(self.raw[0]) + (1.0 if self.ties == "rao-kupper" else 0.0)

    def thresholds(self) -> torch.Tensor:
        """The [L - 1] thresholds of ordinal ratings, rising."""
        return torch.cat([self.raw[:1], self.raw[:1] + nn.functional.softplus(self.raw[1:]).cumsum(0)])

    def as_record(self) -> dict[str, Any]:
        """Return what was fitted, for people and files."""
        if self.ties != "drop":
            return {"nu" if self.ties == "davidson" else "theta": float(self.tie_strength().detach())}
        if self.objective == "ordinal":
            return {"levels": self.levels, "thresholds": self.thresholds().detach().tolist()}
        return {"rating_mean": self.mean, "rating_deviation": self.deviation} if self.objective == "regression" else {}


def tie_probability(ties: str, strength: float, difference: float) -> float:
    """Return P(tie) of two rewards so far apart (methods: Davidson 1970, Rao & Kupper 1967)."""
    if ties == "davidson":
        return strength / (math.exp(difference / 2) + math.exp(-difference / 2) + strength)
    edge = math.log(strength)
    sigma = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    return (strength**2 - 1) * sigma(difference - edge) * sigma(-difference - edge)


def _start_of_ties(ties: str, train: Sequence[Preference]) -> float:
    """The strength at which two equal rewards tie as often as judgements do: nu / (2 + nu), or (theta - 1) / (theta + 1)."""
    pairs = [a == b for p in train for i, a in enumerate(p.ranks) for b in p.ranks[:i]]
    share = min(sum(pairs) / max(len(pairs), 1), 0.9)
    if not share:
        raise UserError("no judgement is a tie, so there is nothing to fit ties to", "Leave --ties out.")
    return 2 * share / (1 - share)  # theta - 1 = 2 s / (1 - s) as well


def _inverse_softplus(value: float) -> float:
    return math.log(math.expm1(value)) if value < 20 else value


def _of_ratings(objective: str) -> bool:
    return objective in ("regression", "ordinal")


def objective_of(config: Config, train: Sequence[Preference]) -> str:
    """Return the objective that "auto" stands for.

    Raises:
        UserError: the judgements are not what the objective needs.
    """
    best = [p.only_best for p in train]
    if config.ties != "drop" and any(best):
        raise UserError(
            "where only the best was named, the others were not compared, so they tie with nobody", "Leave --ties out."
        )
    if config.objective == "auto":
        if config.ties == "drop" and any(best) and all(best):
            return "best-of-k"
        return "kwise"
    if config.objective == "best-of-k":
        several = next((p for p in train if list(p.ranks).count(1) != 1), None)
        if several:
            raise UserError(f"{several.where}: several completions are the best, or none", "Use --objective kwise.")
    return config.objective


def encode(it: RewardModel, preferences: Sequence[Preference], objective: str) -> list[Encoded]:
    """Encode judgements: a row has the texts of all completions end to end, so that each is read once, whatever pairs it is in.

    Raises:
        UserError: a text cannot be encoded; names the judgement.
    """
    rows = []
    for preference in preferences:
        try:
            texts = [it.ids(preference.prompt, completion) for completion in preference.completions]
        except UserError as error:
            raise UserError(f"{preference.where}: {error.message}", error.fix) from None
        begins = tuple(at == 0 for ids in texts for at in range(len(ids)))
        ratings = preference.ratings or (0.0,) * len(texts)
        beside = tuple((float(rank), float(rating)) for rank, rating in zip(preference.ranks, ratings, strict=True))
        # The loss is divided by the number of targets: one a judgement, or one a rating.
        targets: tuple[int, ...] = (0,) * len(texts) if _of_ratings(objective) else (preference.ranks.index(1),)
        rows.append(Encoded(tuple(i for ids in texts for i in ids), begins, preference.where, targets, beside))
    return rows


def loss_of(it: RewardModel, fitted: Fitted, config: Config) -> LossOf:
    """Return the loss of a batch, summed over judgements (over ratings, where these are learned)."""

    def of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        assert batch.beside is not None
        texts = Texts.of(*batch.tensors(it.lm.device))
        beside = batch.beside.to(it.lm.device)
        rewards = it.rewards(texts, config.activation_checkpointing)
        ranks, ratings = beside[:, _RANK], beside[:, _RATING]
        if fitted.objective == "regression":
            return regression.loss(rewards, (ratings - fitted.mean) / fitted.deviation)
        if fitted.objective == "ordinal":
            levels = torch.tensor(fitted.levels, device=ratings.device)
            return ordinal.loss(rewards, (ratings[:, None] - levels).abs().argmin(1), fitted.thresholds())
        if fitted.objective == "best-of-k":
            return _best(rewards, texts, ranks)
        if fitted.ties == "drop":
            better, worse, weight = kwise.pairs(ranks, texts.row)
            margin = config.margin + config.rating_margin * (ratings[better] - ratings[worse])
            return pairwise.loss(rewards[better], rewards[worse], margin, config.label_smoothing, config.centring, weight)
        return _with_ties(rewards, texts, ranks, fitted)

    return of


def _best(rewards: torch.Tensor, texts: Texts, ranks: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Of k completions one was chosen; rows with fewer completions are filled up with rewards that nobody chooses."""
    wide = rewards.new_full((len(texts.per_row), int(texts.per_row.max())), -math.inf)
    place = torch.arange(len(rewards), device=rewards.device) - (texts.per_row.cumsum(0) - texts.per_row)[texts.row]
    scores = wide.index_put((texts.row, place), rewards)
    best = place[ranks == 1]
    return best_of_k.loss(scores, best)


def _with_ties(rewards: torch.Tensor, texts: Texts, ranks: torch.Tensor, fitted: Fitted) -> tuple[torch.Tensor, dict[str, float]]:
    """All pairs of a prompt, a tie being an outcome; as for rankings, the weights of a prompt's pairs sum to 1."""
    number = torch.arange(len(rewards), device=rewards.device)
    a, b = ((texts.row[:, None] == texts.row[None]) & (number[:, None] < number[None])).nonzero(as_tuple=True)
    outcomes = 1 + (ranks[a] > ranks[b]).long() - (ranks[a] < ranks[b]).long()
    _, which, many = texts.row[a].unique(return_inverse=True, return_counts=True)
    objective = davidson if fitted.ties == "davidson" else rao_kupper
    return objective.loss(rewards[a], rewards[b], outcomes, fitted.tie_strength(), 1.0 / many[which])
