"""Encoder classifier: every weight of an encoder and a new head over its first token, fine-tuned (Devlin et al. 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from tunesmith.core.config import Config
from tunesmith.recipes._ladder.workload import Sizes, Workload, encoder_training

if TYPE_CHECKING:
    from tunesmith.data.task import Task
    from tunesmith.recipes._ladder.climb import Climbed, Workshop

KIND = "tuned"


class Parameters(Config):
    """What the fine-tuning of an encoder can be told; batch size, warm-up and the like are the ladder's."""

    encoder: str = "minilm"
    """embedded name, local directory or hub id of an encoder of the BERT family"""
    labelled: int | None = Field(None, ge=2)
    """labelled rows, with labels as equal as they can be, and no validation rows; absent = every training row"""
    repeats: int = Field(1, ge=1)
    """how often labelled rows are drawn anew, and a classifier trained on them"""
    epochs: float = Field(3.0, gt=0, allow_inf_nan=False)
    """passes over the labelled rows"""
    least_steps: int = Field(60, ge=1)
    """at least this many updates, however few the rows"""
    learning_rate: float = Field(2e-4, gt=0, allow_inf_nan=False)
    """peak; published for encoders five times as large as minilm are 2e-5 to 5e-5"""


def label(parameters: Parameters) -> str:
    """Name of the row in the table."""
    return labelled_as("encoder classifier", parameters)


def labelled_as(name: str, parameters: Config) -> str:
    """Return a name with how many rows are labelled, and whatever else is not as usual."""
    values = parameters.model_dump()
    rows = [f"n={values['labelled']}"] if values["labelled"] is not None else []
    others = [
        f"{key}={_short(value)}"
        for key, value in values.items()
        if key not in ("labelled", "repeats") and value != type(parameters).model_fields[key].default
    ]
    return " ".join([name, *rows, *others])


def _short(value: object) -> str:
    """A number in few digits; a directory without the folders around it, but "runs/x/model" as "x"."""
    if isinstance(value, str):
        path = Path(value)
        return path.parent.name if path.name == "model" and path.parent.name else path.name
    return f"{value:g}" if isinstance(value, float) else str(value)


def unsuitable(task: Task) -> str:
    """Why this route cannot be climbed on a task; "" if it can."""
    return "" if task.verbalizer else "the answers are free text, and a classifier knows only labels"


def workload(parameters: Parameters, sizes: Sizes) -> Workload:
    """Three passes of the encoder for every token, as often as it is trained."""
    tokens = parameters.labelled * sizes.prompt_tokens if parameters.labelled else sizes.train_tokens
    return encoder_training(sizes, parameters.repeats * parameters.epochs * tokens, parameters.repeats)


def climb(shop: Workshop, parameters: Parameters) -> Climbed:
    """Fine-tune a classifier on each draw of labelled rows, save it, and ask every item."""
    from tunesmith.core.seeds import derive
    from tunesmith.recipes._routes.repeats import Made, Repeat, climb_repeats
    from tunesmith.recipes._tune.encoder import encode, fine_tune, load_fresh, open_run, steps_for

    def make(repeat: Repeat) -> Made:
        lm = load_fresh(shop, parameters.encoder, "classifier", repeat.seed)
        how = steps_for(shop, len(repeat.labelled), parameters.epochs, parameters.least_steps, parameters.learning_rate)
        # Who has only ten labels has no two hundred more to choose weights by.
        held_out = encode(shop.task, lm, shop.validation) if parameters.labelled is None else []
        rows = encode(shop.task, lm, repeat.labelled)
        cost = fine_tune(lm, rows, held_out, how, open_run(shop, repeat.folder), derive(repeat.seed, "fit"))
        kept = (
            f"the weights with the best accuracy on {len(held_out)} validation rows ({cost.best:.3f}) were kept"
            if cost.best is not None
            else ""
        )
        return Made(lm, cost, [kept] if kept else [])

    return climb_repeats(shop, label(parameters), parameters.labelled, parameters.repeats, make)
