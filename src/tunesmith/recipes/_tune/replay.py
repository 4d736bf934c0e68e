"""Rows that a training replays so as not to forget them (rehearsal, Robins 1995), and that EWC measures weights on."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from tunesmith.core.encode import encode_text
from tunesmith.core.errors import UserError, unknown
from tunesmith.core.records import BadRow, Encoded, Segment
from tunesmith.core.seeds import derive
from tunesmith.data import formats
from tunesmith.data.encoded_rows import EncodedRows
from tunesmith.data.prompts import Prompts
from tunesmith.data.task import embedded_tasks, load_task
from tunesmith.models.load import LM
from tunesmith.recipes._tune.rows import encode_row

GENERAL = "general"
_GENERAL_TASK = "editorials"
# More than a training replays, or Fisher information needs, is not read.
_MOST_ROWS = 2_000


def replay_rows(names: str, lm: LM, longest: int, seed: int) -> EncodedRows:
    """Return what can be replayed, shuffled: texts are predicted whole, answers as the task trains them.

    Args:
        names: "general", tasks and files, separated by commas. longest: tokens; longer rows are left out.

    Raises:
        UserError: a name that means nothing, or nothing to replay in it.
    """
    found = []
    for name in dict.fromkeys(piece.strip() for piece in names.split(",") if piece.strip()):
        rows = [row for row in _rows_of(name, lm) if 1 < len(row) <= longest and row.counted]
        if not rows:
            raise UserError(
                f"replay_data: '{name}' holds no rows of at most {longest} tokens to replay or to measure weights on",
                "Name general, another task or another file.",
            )
        found += random.Random(derive(seed, "replay", name)).sample(rows, min(len(rows), _MOST_ROWS))
    random.Random(derive(seed, "replay")).shuffle(found)
    return EncodedRows(found)


def mixed(rows: EncodedRows, pool: EncodedRows, share: float, seed: int) -> EncodedRows:
    """Return rows with so many of the pool after them that these are a share of all: the same in every epoch.

    The share is also that of the loss, or nearly: where a text has more tokens that count than a row has on average, so many
    of them are drawn and the others only read. Else sixty words of a text would drown a one-word answer. Where the pool has
    too few rows, they come several times, with other tokens drawn.
    """
    wanted = max(round(len(rows) * share / (1 - share)), 1)
    most = max(round(sum(row.counted for row in rows) / len(rows)), 1)
    return EncodedRows(chain(rows, (_thinned(pool[i % len(pool)], most, derive(seed, "thin", i)) for i in range(wanted))))


def _thinned(row: Encoded, most: int, seed: int) -> Encoded:
    counted = [i for i, counts in enumerate(row.loss_mask) if counts]
    if len(counted) <= most:
        return row
    kept = set(random.Random(seed).sample(counted, most))
    return replace(row, loss_mask=tuple(i in kept for i in range(len(row))))


def _rows_of(name: str, lm: LM) -> Iterable[Encoded]:
    path = Path(name)
    if name == GENERAL:
        examples = load_task(_GENERAL_TASK).splits.train
        return (_text(lm, str(e.fields["text"]), f"replayed {e.where}") for e in examples)
    if name in embedded_tasks() or path.suffix in (".yaml", ".yml"):
        return _task_rows(name, lm)
    if not path.is_file():
        known = [GENERAL, *embedded_tasks()]
        raise unknown("replay source", name, known) if path.suffix == "" else UserError(f"replay_data: there is no file '{name}'")
    sniffed = formats.sniff(path)
    return _task_rows(name, lm) if sniffed.convention == "text_label" else _file_rows(sniffed, lm)


def _task_rows(name: str, lm: LM) -> Iterator[Encoded]:
    task = load_task(name)
    prompts = Prompts(task, lm.tokenizer)
    return (replace(prompts.training(e), example_id=f"replayed {e.where}") for e in task.splits.train)


def _file_rows(sniffed: formats.Sniffed, lm: LM) -> Iterator[Encoded]:
    bad = list[BadRow]()
    for example in formats.good_rows(sniffed, bad):
        row = encode_row(lm.tokenizer, example)
        yield replace(row, loss_mask=(False, *row.loss_mask[1:]), example_id=f"replayed {example.where}")


def _text(lm: LM, text: str, where: str) -> Encoded:
    # Left open: a snippet is not where a text of its kind would end.
    row = encode_text(lm.tokenizer, [Segment(text, True)], where, end=False)
    return replace(row, loss_mask=(False, *row.loss_mask[1:]))
