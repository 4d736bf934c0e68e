"""Repeats: what the encoder routes report, one classifier for each draw of labelled rows, saved and asked all items."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json
from tunesmith.core.records import Example
from tunesmith.core.registry import DEMONSTRATIONS
from tunesmith.core.seeds import derive
from tunesmith.data.task import record_of
from tunesmith.evaluate.answer import single_query_ms
from tunesmith.models.encoder import load_encoder
from tunesmith.models.load import LM
from tunesmith.peft import full
from tunesmith.recipes._artefact import save_artefact
from tunesmith.recipes._ladder.climb import Climbed, Workshop
from tunesmith.recipes._tune.encoder import Cost, answer, encode


@dataclass(frozen=True)
class Repeat:
    """One draw of labelled rows, and where what is trained on them goes.

    Attributes:
        unlabelled: the other training rows, whose labels nobody may look at.
    """

    folder: Path
    seed: int
    labelled: list[Example]
    unlabelled: list[Example]


@dataclass(frozen=True)
class Made:
    """A trained classifier, what it took, and what is worth saying about it."""

    lm: LM
    cost: Cost
    notes: list[str] = field(default_factory=list)


def climb_repeats(shop: Workshop, title: str, labelled: int | None, repeats: int, make: Callable[[Repeat], Made]) -> Climbed:
    """Train a classifier on each draw of labelled rows, save it, and let it answer all items.

    Args:
        labelled: labelled rows a draw; None = every training row. make: trains; a finished repeat is not made again.

    Raises:
        UserError: there are not so many training rows, or fewer labelled ones than labels.
    """
    drawn = [_draw(shop, labelled, number) for number in range(repeats)]
    total, notes, answers = Cost(), [], []
    training = answering = tokens = 0.0
    latency = (0.0, 0.0)
    for number, rows in enumerate(drawn):
        chosen = {row.id for row in rows}
        seed = derive(shop.seed, shop.assignment.route["name"], number)
        unlabelled = [row for row in shop.train if row.id not in chosen]
        made, seconds = _made_once(shop, title, Repeat(shop.folder / f"repeat-{number + 1}", seed, rows, unlabelled), make)
        if number == 0:
            tokens = statistics.fmean(map(len, encode(shop.task, made.lm, shop.items)))
            latency = single_query_ms(lambda item, lm=made.lm: answer(shop.task, lm, [item]), shop.items)
        start = time.perf_counter()
        answers.append(answer(shop.task, made.lm, shop.items, title, number))
        answering += time.perf_counter() - start
        training += seconds
        total += made.cost
        notes += made.notes
    said = f"{total.steps:,} steps on {len(drawn[0]):,} labelled rows" + (f" in {repeats} draws" if repeats > 1 else "")
    rate = total.tokens / max(total.seconds, 1e-9)
    return Climbed(
        answers, answering, tokens, latency, training, total.parameters,
        notes=[f"{said}: {total.tokens:,} tokens at {rate:,.0f} tokens/s", *notes],
    )  # fmt: skip


def _draw(shop: Workshop, labelled: int | None, number: int) -> list[Example]:
    """Draw labelled rows with labels as equal as they can be; the same draw has the same rows in every route."""
    assert shop.task.verbalizer is not None
    most, labels = len(shop.train), len(shop.task.verbalizer.labels)
    if labelled is None:
        return shop.train
    if labelled > most:
        raise UserError(f"labelled = {labelled:,}, but there are only {most:,} training rows", "Ask for fewer.")
    if labelled < labels:
        raise UserError(f"labelled = {labelled} rows cannot show {labels} labels", f"Give at least labelled={labels}.")
    choose = DEMONSTRATIONS.get("balanced").choose
    return choose(shop.train, shop.items[:1], labelled, shop.draw_seed(number), label_of=shop.task.gold)[0]


def _made_once(shop: Workshop, title: str, repeat: Repeat, make: Callable[[Repeat], Made]) -> tuple[Made, float]:
    """Train and save a classifier, or load it where that was done before; also returns the seconds that training took."""
    assert shop.task.verbalizer is not None
    record, start = repeat.folder / "finished.json", time.perf_counter()
    if record.is_file():
        said = json.loads(record.read_text(encoding="utf-8"))
        lm = load_encoder(str(repeat.folder / "model"), "classifier", shop.task.verbalizer.labels, shop.assignment.dtype)
        return Made(lm, Cost(**said["cost"]), said["notes"]), said["seconds"]
    made = make(repeat)
    seconds = time.perf_counter() - start
    dtype = str(made.lm.dtype).removeprefix("torch.")
    asked = {"objective": "classification", "dtype": dtype, "tasks": [record_of(shop.task)]}
    save_artefact(repeat.folder, made.lm, (full, full.Parameters()), [], title, asked=asked)
    write_json(record, {"cost": asdict(made.cost), "notes": made.notes, "seconds": seconds})
    # What is finished needs no checkpoints, and those of several models would fill a disk.
    for checkpoints in list(repeat.folder.rglob("checkpoints")):
        shutil.rmtree(checkpoints)
    return made, seconds
