"""Repeats: what the encoder routes report, one classifier for each draw of labelled rows, saved and asked all items."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith.core.errors import UserError
from tunesmith.core.files import write_json
from tunesmith.core.records import Example
from tunesmith.core.registry import DEMONSTRATIONS
from tunesmith.core.seeds import derive
from tunesmith.data.task import Task
from tunesmith.evaluate.answer import shown_text, single_query_ms
from tunesmith.evaluate.results import Prediction
from tunesmith.models.encoder import load_encoder
from tunesmith.models.load import LM
from tunesmith.peft import full
from tunesmith.recipes._artefact import save_artefact
from tunesmith.recipes._climb import Climbed, Workshop
from tunesmith.recipes._encoder import Cost, class_logits, encode, in_order, text_of


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


def climb_repeats(
    shop: Workshop, title: str, labelled: int | None, repeats: int, make: Callable[[Repeat], tuple[LM, Cost]]
) -> Climbed:
    """Train a classifier on each draw of labelled rows, save it, and let it answer all items.

    Args:
        labelled: labelled rows a draw; None = every training row. make: trains; a finished repeat is not made again.

    Raises:
        UserError: there are not so many training rows, or fewer labelled ones than labels.
    """
    assert shop.task.verbalizer is not None
    labels = shop.task.verbalizer.labels
    drawn = [_draw(shop, labelled, number) for number in range(repeats)]
    total, answers, seconds, tokens = Cost(), [], 0.0, 0.0
    latency = (0.0, 0.0)
    for number, rows in enumerate(drawn):
        chosen = {row.id for row in rows}
        folder = shop.folder / f"repeat-{number + 1}"
        seed = derive(shop.seed, shop.assignment.route["name"], number)
        repeat = Repeat(folder, seed, rows, [row for row in shop.train if row.id not in chosen])
        lm, cost = _made_once(shop, title, repeat, labels, make)
        if number == 0:
            latency = single_query_ms(lambda item, lm=lm: _answer(shop.task, lm, [item], 0), shop.items)
        start = time.perf_counter()
        predictions = _answer(shop.task, lm, shop.items, number, title)
        seconds += time.perf_counter() - start
        tokens += sum(len(row) for row in encode(shop.task, lm, shop.items)) / len(shop.items)
        answers.append(predictions)
        total += cost
    note = f"{total.steps:,} steps on {len(drawn[0]):,} labelled rows" + (f" in each of {repeats} draws" if repeats > 1 else "")
    notes = [f"{note} ({total.tokens:,} tokens in all, {total.tokens / max(total.seconds, 1e-9):,.0f} tokens/s)"]
    return Climbed(answers, seconds, tokens / repeats, latency, total.seconds, trained_parameters=total.parameters, notes=notes)


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


def _made_once(
    shop: Workshop, title: str, repeat: Repeat, labels: Sequence[str], make: Callable[[Repeat], tuple[LM, Cost]]
) -> tuple[LM, Cost]:
    """Train and save a classifier, or load it where that was done before."""
    record = repeat.folder / "finished.json"
    if record.is_file():
        cost = Cost(**json.loads(record.read_text(encoding="utf-8")))
        return load_encoder(str(repeat.folder / "model"), "classifier", labels), cost
    lm, cost = make(repeat)
    save_artefact(repeat.folder, lm, (full, full.Parameters()), [], title)
    write_json(record, asdict(cost))
    # What is finished needs no checkpoints, and those of several models would fill a disk.
    for checkpoints in list(repeat.folder.rglob("checkpoints")):
        shutil.rmtree(checkpoints)
    return lm, cost


def _answer(task: Task, lm: LM, items: Sequence[Example], draw: int, title: str = "") -> list[Prediction]:
    assert task.verbalizer is not None
    labels = task.verbalizer.labels
    rows = encode(task, lm, items)
    logprobs = in_order(lambda batch: class_logits(lm, batch), rows, title).log_softmax(-1).tolist()
    return [
        Prediction(
            id=item.id, where=item.where, text=shown_text(task, item), prompt=text_of(task, item), prompt_hash=_hash(row.ids),
            scores=dict(zip(labels, scores, strict=True)), predicted=labels[max(range(len(labels)), key=scores.__getitem__)],
            gold=task.gold(item), draw=draw,
        )
        for item, row, scores in zip(items, rows, logprobs, strict=True)
    ]  # fmt: skip


def _hash(ids: Sequence[int]) -> str:
    return hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()
