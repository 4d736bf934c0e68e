"""What PET is made of: a masked language model for each pattern, their ensemble, and who labels rows for whom in iPET.

Schick & Schuetze 2021, section 3: a label's score s(l | x) is the mean logit of its words at the pattern's [MASK]; models
vote by s(l | x) = 1/Z sum over p of w(p) s_p(l | x).
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json
from tunesmith.core.records import Encoded, Example
from tunesmith.core.runs import Run
from tunesmith.core.seeds import derive
from tunesmith.data.cloze import Pattern
from tunesmith.data.collate import Batch, collate
from tunesmith.data.masking import Masking
from tunesmith.data.task import Task
from tunesmith.models.fill import masked_logits
from tunesmith.models.load import LM
from tunesmith.objectives import masked_lm, pet
from tunesmith.recipes._memory import require_memory
from tunesmith.recipes._tune.encoder import Cost, fit_encoder, in_order, training_of
from tunesmith.train.parameters import FitParameters

Logits = NDArray[np.float64]


@dataclass(frozen=True)
class Labelled:
    """Rows with the numbers of their classes: first the `gold` labelled ones, then those that other models labelled."""

    examples: list[Example]
    classes: list[int]
    gold: int


@dataclass(frozen=True)
class Vote:
    """What one pattern's model says about the unlabelled rows.

    Attributes:
        logits: [U, L] of labels. before: accuracy on the labelled rows before it was trained.
        shortened: tokens that were left out of rows too long for the model.
    """

    logits: Logits
    before: float
    shortened: int
    cost: Cost


@dataclass(frozen=True)
class PatternModel:
    """A masked language model that reads rows through one pattern.

    Attributes:
        words: token ids of the labels' words, label by label. counts: how many words each label has.
    """

    lm: LM
    pattern: Pattern
    words: list[int]
    counts: list[int]

    @classmethod
    def of(cls, task: Task, lm: LM, pattern: Pattern) -> PatternModel:
        """Look up the task's words.

        Raises:
            UserError: a word has not exactly one token in this pattern; names it.
        """
        assert task.verbalizer is not None
        words = pattern.single_ids(lm.tokenizer, task.verbalizer.flat())
        return cls(lm, pattern, words, [len(said) for said in task.verbalizer.words.values()])

    def rows(self, examples: Sequence[Example], classes: Sequence[int]) -> tuple[list[Encoded], int]:
        """Return rows whose only target is a class, at the mask, and how many tokens were left out of those too long."""
        longest = min(self.lm.context_length, self.lm.tokenizer.model_max_length)
        clozes = [self.pattern.render(self.lm.tokenizer, example.fields, longest) for example in examples]
        rows = [
            Encoded(cloze.ids, tuple(i in cloze.at for i in range(len(cloze.ids))), example.id, (number,))
            for cloze, example, number in zip(clozes, examples, classes, strict=True)
        ]
        return rows, sum(cloze.shortened for cloze in clozes)

    def label_logits(self, batch: Batch) -> torch.Tensor:
        """Return [B, L]: of each label the mean over its words' logits at the mask."""
        logits = masked_logits(self.lm.model, *batch.tensors(self.lm.device))
        return pet.label_logits(logits[:, self.words].float(), self.counts)

    def fit(
        self, rows: list[Encoded], beside: list[Encoded], how: FitParameters, run: Run, seed: int, alpha: float, texts: int
    ) -> Cost:
        """Train on labelled rows, and on `texts` unlabelled ones beside each, some of whose tokens are hidden."""
        masking = Masking.of(self.lm.tokenizer)
        open_rows = [_open(row, self.lm.tokenizer) for row in beside]

        def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
            assert batch.targets is not None
            logits = self.label_logits(batch)
            mlm = logits.new_zeros(())
            if texts and alpha:
                # Torch's generator has a seed of its own at every step of `fit`, so a resumed run draws the same texts.
                count = texts * len(batch.ids)
                chosen, seeds = torch.randint(len(open_rows), (count,)), torch.randint(2**62, (count,))
                hidden = [masking.masked(open_rows[i], s) for i, s in zip(chosen.tolist(), seeds.tolist(), strict=True)]
                mlm = len(batch.ids) * self._mlm(collate(hidden))
            return pet.loss(logits, batch.targets.to(self.lm.device), mlm, alpha)

        training = training_of(self.lm, loss_of, rows, how, seed)
        require_memory(training, keeps_best=False)
        return fit_encoder(self.lm, training, run)

    def _mlm(self, batch: Batch) -> torch.Tensor:
        """Mean loss of hidden tokens, nats."""
        assert batch.targets is not None
        logits = masked_logits(self.lm.model, *batch.tensors(self.lm.device))
        return masked_lm.loss(logits, batch.targets.to(self.lm.device))[0] / len(batch.targets)


def _open(row: Encoded, tokenizer: Any) -> Encoded:
    """Mark the tokens that may be hidden: all but special ones, the gap among them."""
    special = set(tokenizer.all_special_ids)
    return Encoded(row.ids, tuple(token not in special for token in row.ids), row.example_id)


def vote(
    folder: Path, make: Callable[[], PatternModel], labelled: Labelled, unlabelled: Sequence[Example],
    train: Callable[[PatternModel, list[Encoded], list[Encoded]], Cost],
) -> Vote:  # fmt: skip
    """Train one pattern's model and let it label the unlabelled rows; what is finished in `folder` is not done again.

    Args:
        train: model, labelled rows and unlabelled rows as it reads them -> what training took.
    """
    record = folder / "vote.json"
    if record.is_file():
        said = json.loads(record.read_text(encoding="utf-8"))
        return Vote(np.array(said["logits"]), said["before"], said["shortened"], Cost(**said["cost"]))
    model = make()
    rows, cut = model.rows(labelled.examples, labelled.classes)
    others, more = model.rows(unlabelled, [0] * len(unlabelled))
    gold = labelled.gold
    right = in_order(model.label_logits, rows[:gold]).argmax(-1) == torch.tensor(labelled.classes[:gold])
    cost = train(model, rows, others)
    logits = in_order(model.label_logits, others, "labelling").double().numpy()
    found = Vote(logits, float(right.float().mean()), cut + more, cost)
    write_json(record, {"logits": logits.tolist(), "before": found.before, "shortened": found.shortened, "cost": asdict(cost)})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return found


def ensemble(votes: Sequence[Logits], weights: Sequence[float]) -> Logits:
    """Return [U, L] logits of several models together, 1/Z sum of w(p) s_p; all alike where every weight is 0."""
    w = np.array(weights if any(weights) else [1.0] * len(weights), np.float64)
    return np.average(np.stack(list(votes)), axis=0, weights=w)


def teachers(pupil: int, models: int, share: float, seed: int) -> list[int]:
    """Draw the models that label rows for one model of the next generation: a share of the others, never itself.

    Raises:
        UserError: there is no other model.
    """
    others = [number for number in range(models) if number != pupil]
    if not others:
        raise UserError(
            "a generation of one model has nobody to learn from", "Use two patterns or repetitions, or generations=1."
        )
    return sorted(random.Random(seed).sample(others, max(round(share * len(others)), 1)))


def rows_to_learn(logits: Logits, gold: Sequence[int], generation: int, factor: int, seed: int) -> list[tuple[int, int]]:
    """Choose unlabelled rows for a model of a later generation, with the labels that its teachers give them.

    Per label l, c_j(l) - c_0(l) rows with c_j(l) = d^j c_0(l) are drawn of those the teachers give to l, each with
    probability proportional to softmax(s)(l | x) (section 3.4); all of them where there are fewer.

    Args:
        logits: [U, L] of the teachers together. gold: classes of the labelled rows. generation: j, from 1. factor: d.

    Returns:
        (number of the row, class), by class.
    """
    rng = np.random.default_rng(seed)
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    likely = shifted / shifted.sum(-1, keepdims=True)
    said = logits.argmax(-1)
    chosen: list[tuple[int, int]] = []
    for label, count in sorted(Counter(gold).items()):
        mine = np.flatnonzero(said == label)
        wanted = min(count * (factor**generation - 1), len(mine))
        if wanted:
            p = likely[mine, label] / likely[mine, label].sum()
            chosen += [(int(i), label) for i in sorted(rng.choice(mine, wanted, replace=False, p=p))]
    return chosen


def member_seed(seed: int, generation: int, number: int) -> int:
    """Return the seed of one model of one generation."""
    return derive(seed, "generation", generation, "model", number)
