"""PET's three steps: train the patterns' models on few labels, let them label the other rows, distil them into a classifier."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.progress import say
from tunesmith.core.records import Encoded, Example
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch
from tunesmith.models.load import LM
from tunesmith.objectives import distillation
from tunesmith.recipes._ladder.climb import Workshop
from tunesmith.recipes._routes.pet import (
    Labelled,
    Logits,
    PatternModel,
    Vote,
    ensemble,
    member_seed,
    rows_to_learn,
    teachers,
    vote,
)
from tunesmith.recipes._routes.pet_config import Parameters
from tunesmith.recipes._routes.repeats import Repeat
from tunesmith.recipes._tune.encoder import Cost, class_logits, encode, fit_encoder, load_fresh, open_run, steps_for, training_of


@dataclass(frozen=True)
class SoftLabels:
    """What the models say about unlabelled rows: [U, L] logits, and what it took to learn them."""

    examples: list[Example]
    logits: Logits
    cost: Cost
    notes: list[str] = field(default_factory=list)


def labels_of(shop: Workshop, parameters: Parameters, repeat: Repeat) -> SoftLabels:
    """Train every generation of models and let the last one label the unlabelled rows.

    Raises:
        UserError: nothing is left to label, the encoder has no masked-language-model head, or a word is not one token.
    """
    unlabelled = repeat.unlabelled[: parameters.unlabelled]
    if not unlabelled:
        raise UserError(
            f"labelled = {parameters.labelled:,} leaves no training row to be labelled", "Ask for fewer, or --train_rows more."
        )
    assert shop.task.verbalizer is not None
    labels = shop.task.verbalizer.labels
    classes = [labels.index(shop.task.gold(example)) for example in repeat.labelled]
    gold = Labelled(repeat.labelled, classes, len(classes))
    open_run(shop, repeat.folder)
    patterns = shop.task.patterns[: parameters.patterns] * parameters.models
    votes: list[Vote] = []
    cost = Cost()
    for generation in range(parameters.generations):
        before, votes = votes, []
        for number in range(len(patterns)):
            told = _told(parameters, repeat, gold, unlabelled, before, (generation, number))
            say(f"generation {generation + 1}, model {number + 1} of {len(patterns)}: {len(told.examples):,} rows")
            votes.append(_vote(shop, parameters, repeat, told, unlabelled, (generation, number)))
            cost += votes[-1].cost
    chosen = [one.before if parameters.weights == "accuracy" else 1.0 for one in votes]
    return SoftLabels(unlabelled, ensemble([one.logits for one in votes], chosen), cost, _notes(shop, votes, unlabelled))


def _told(
    parameters: Parameters, repeat: Repeat, gold: Labelled, unlabelled: list[Example], before: list[Vote], which: tuple[int, int]
) -> Labelled:  # fmt: skip
    """Return what one model learns from: the labelled rows, and in later generations rows that other models labelled."""
    generation, number = which
    if generation == 0:
        return gold
    seed = member_seed(repeat.seed, generation, number)
    chosen = teachers(number, len(before), parameters.teachers, derive(seed, "teachers"))
    weights = [before[i].before if parameters.weights == "accuracy" else 1.0 for i in chosen]
    together = ensemble([before[i].logits for i in chosen], weights)
    more = rows_to_learn(together, gold.classes, generation, parameters.growth, derive(seed, "rows"))
    examples = [*gold.examples, *(unlabelled[i] for i, _ in more)]
    return Labelled(examples, [*gold.classes, *(label for _, label in more)], gold.gold)


def _vote(
    shop: Workshop, parameters: Parameters, repeat: Repeat, told: Labelled, unlabelled: list[Example], which: tuple[int, int]
) -> Vote:  # fmt: skip
    """Train one model and let it label."""
    generation, number = which
    seed = member_seed(repeat.seed, generation, number)
    patterns = shop.task.patterns[: parameters.patterns]
    pattern = patterns[number % len(patterns)]
    folder = repeat.folder / f"generation-{generation + 1}" / f"model-{number + 1}"

    def make() -> PatternModel:
        return PatternModel.of(shop.task, load_fresh(shop, parameters.encoder, "masked_lm", seed), pattern)

    def train(model: PatternModel, rows: list[Encoded], others: list[Encoded]) -> Cost:
        how = steps_for(shop, len(rows), parameters.epochs, parameters.least_steps, parameters.learning_rate)
        return model.fit(rows, others, how, open_run(shop, folder), derive(seed, "fit"), parameters.alpha, parameters.texts)

    return vote(folder, make, told, unlabelled, train)


def _notes(shop: Workshop, votes: list[Vote], unlabelled: list[Example]) -> list[str]:
    said = ", ".join(f"{one.before:.3f}" for one in votes)
    notes = [f"accuracy of the patterns on the labelled rows before training: {said}; {len(unlabelled):,} rows were labelled"]
    if shortened := sum(one.shortened for one in votes):
        notes.append(f"{shortened:,} tokens of rows longer than {shop.task.name}'s encoder reads were left out")
    return notes


def distil(shop: Workshop, parameters: Parameters, repeat: Repeat, soft: SoftLabels) -> tuple[LM, Cost]:
    """Train a classifier to say what the models said together, softened by the temperature."""
    lm = load_fresh(shop, parameters.encoder, "classifier", repeat.seed)
    rows = encode(shop.task, lm, soft.examples, soft.logits.argmax(-1).tolist())
    said = {example.id: torch.from_numpy(logits) for example, logits in zip(soft.examples, soft.logits, strict=True)}

    def loss_of(batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        teacher = torch.stack([said[name] for name in batch.example_ids]).to(lm.device)
        return distillation.loss(class_logits(lm, batch), teacher, parameters.temperature)

    how = steps_for(shop, len(rows), parameters.distillation_epochs, 1, parameters.distillation_rate)
    training = training_of(lm, loss_of, rows, how, derive(repeat.seed, "distil"))
    return lm, fit_encoder(lm, training, open_run(shop, repeat.folder))
