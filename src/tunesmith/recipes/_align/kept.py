"""The best of a policy's own answers as training rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tunesmith.core.errors import UserError
from tunesmith.core.records import Encoded
from tunesmith.rl.kl import Controller
from tunesmith.train.rollouts import Rollouts, Sampler, Watch


class Kept(Rollouts):
    """The rows of a policy's rounds of which only the best answers to each prompt are learned.

    Args:
        keep: how many; of equal scores the earlier answer.
    """

    def __init__(self, sampler: Sampler, controller: Controller, folder: Path, seed: int, watch: Watch, keep: int) -> None:
        super().__init__(sampler, controller, folder, seed, watch)
        if keep >= sampler.samples:
            raise UserError(
                f"of {sampler.samples} answers to a prompt {keep} cannot be the best", "Choose more --samples, or fewer to keep."
            )
        self.keep = keep

    def __len__(self) -> int:
        return self.sampler.prompts_per_round * self.keep

    def in_epoch(self, epoch: int) -> Sequence[Encoded]:
        """Return the best answers of a round, which is sampled now or read where it is kept."""
        rows, scores = super().in_epoch(epoch), [float(row["score"]) for row in self._kept["rows"]]
        k = self.sampler.samples
        best = [
            number
            for start in range(0, len(rows), k)
            for number in sorted(range(start, start + k), key=lambda n: -scores[n])[: self.keep]
        ]
        return [rows[number] for number in best]

    def measured(self, epoch: int) -> dict[str, float]:
        """Return what was measured of the epoch's round, and the mean score of what is learned of it."""
        found = super().measured(epoch)
        if not found:
            return found
        k, scores = self.sampler.samples, [float(row["score"]) for row in self._kept["rows"]]
        best = [s for start in range(0, len(scores), k) for s in sorted(scores[start : start + k])[-self.keep :]]
        return found | {"score_kept": sum(best) / len(best)}
