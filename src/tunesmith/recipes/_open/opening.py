"""`ts.load`: a model as what it was trained for, from a name, a model's directory, an adapter's, or a run's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.data.inputs import Inputs
from tunesmith.data.task import Task, without_rows
from tunesmith.evaluate.results import Prediction
from tunesmith.models.load import LM
from tunesmith.models.load import load as load_base
from tunesmith.models.seq2seq import load_seq2seq
from tunesmith.recipes import _models
from tunesmith.recipes._open.kinds import REWARD_FILE, is_encoder_decoder, placed, task_record
from tunesmith.recipes._open.tuned import Predict, Rewards, Tuned
from tunesmith.recipes._reward.files import open_reward
from tunesmith.recipes._tune.gpt import GPT
from tunesmith.recipes._tune.heads import load_tuned, tuning_of
from tunesmith.recipes._tune.supervised import with_adapter
from tunesmith.recipes._tune.text_to_text import TextTask

_LONGEST = 128


def load(
    model: str, adapter: str | None = None, dtype: str = "auto", device: str = "auto", adapters: Mapping[str, str] | None = None
) -> LM | Tuned | Rewards:
    """Load a model by embedded name, directory or hub id, with a saved adapter on it, or several to switch between.

    Args:
        model: also an adapter's directory, which names its base, or a run's, which stands for what it made.
        adapters: name -> directory of LoRA adapters; `lm.adapters.switch(name)` chooses one, and none is chosen yet.

    Returns:
        A decoder as an `LM`; what was tuned with a head, or writes text from text, as a `Tuned` with `answer`; a reward model
        as `Rewards` with `score`.

    Raises:
        UserError: no such model or adapter, they do not fit each other, or both `adapter` and `adapters`.
        WorkFailed: an adapter's probe does not come back (not applied, or the wrong base).
    """
    if adapters:
        return _models.load(model, adapter, dtype, device, adapters)
    model, adapter = placed(model, adapter)
    _models.quiet_libraries()
    opened = open_rewards(model, adapter, dtype) or open_tuned(model, adapter, dtype)
    if opened is None:
        return _models.load(model, adapter, dtype, device)
    if device != "auto":
        opened.lm.model.to(device)
    return opened


def open_rewards(model: str, adapter: str | None, dtype: str) -> Rewards | None:
    """Open a reward model, or an ensemble; None for anything else.

    Raises:
        UserError: damaged, or for another base. WorkFailed: its rewards do not come back.
    """
    folder = adapter or model
    return Rewards(open_reward(folder, model if adapter else None, dtype)) if (Path(folder) / REWARD_FILE).is_file() else None


def open_tuned(model: str, adapter: str | None, dtype: str) -> Tuned | None:
    """Open what `tune` gave a head, or any encoder-decoder; None for a decoder that goes on with text.

    Raises:
        UserError: no such model or adapter, or they do not fit each other.
        WorkFailed: the adapter's probe does not come back.
    """
    record = task_record(adapter or model) or {"objective": "", "tasks": []}
    # What was measured was measured in the precision of the training.
    dtype = str(record.get("dtype", dtype)) if dtype == "auto" else dtype
    made = [without_rows(task, f"the task of {adapter or model}") for task in record["tasks"]]
    tasks = {task.name: task for task in made}
    if found := tuning_of(model, adapter):
        return _headed(load_tuned(model, adapter, found[1], dtype), found[0], tasks)
    if record["objective"] == "gpt-classification":
        return _gpt(model, adapter, dtype, tasks)
    if is_encoder_decoder(model):
        return _text_to_text(model, adapter, dtype, tasks, record)
    return None


def _headed(lm: LM, entry: Any, tasks: Mapping[str, Task]) -> Tuned:
    def ask(task: Task, most: int | None) -> tuple[tuple[str, ...], Predict]:
        it = entry.headed(lm, task)
        return it.metrics, it.answer

    return Tuned(lm, entry.__name__.rpartition(".")[2].replace("_", "-"), tasks, ask)


def _gpt(model: str, adapter: str | None, dtype: str, tasks: Mapping[str, Task]) -> Tuned:
    lm, task = load_base(model, dtype), next(iter(tasks.values()))
    with torch.random.fork_rng(devices=[]):
        gpt = GPT.on(lm, task, whole=adapter is None, seed=0, dropout=0.0)
    with_adapter(lm, adapter)
    lm.model.requires_grad_(False).eval()

    def ask(other: Task, most: int | None) -> tuple[tuple[str, ...], Predict]:
        inputs = Inputs.of(other)
        if inputs.kind != gpt.inputs.kind or inputs.labels != gpt.inputs.labels:
            raise UserError(
                f"'{adapter or model}' was tuned for {gpt.inputs.kind} into {', '.join(gpt.inputs.labels)}, and task "
                f"'{other.name}' is {inputs.kind} into {', '.join(inputs.labels)}",
                "Ask it a task of the same kind, with the same labels in the same order.",
            )
        it = replace(gpt, task=other, inputs=inputs)
        return other.metrics, it.answer

    return Tuned(lm, "gpt-classification", tasks, ask)


def _text_to_text(model: str, adapter: str | None, dtype: str, tasks: Mapping[str, Task], record: Mapping[str, Any]) -> Tuned:
    lm = load_seq2seq(model, "fp32" if dtype == "auto" else dtype)
    with_adapter(lm, adapter)
    lm.model.requires_grad_(False).eval()
    # A model that was not tuned on tasks reads a text as it is.
    reads, step, longest = record.get("reads", "template"), record.get("step"), record.get("max_new_tokens", {})

    def ask(task: Task, most: int | None) -> tuple[tuple[str, ...], Predict]:
        it = TextTask(task, lm, reads, None if task.verbalizer else step)
        limit = most or longest.get(task.name, _LONGEST)

        def predict(items: Sequence[Example], title: str) -> list[Prediction]:
            return it.answer(items, limit, title)

        return task.metrics, predict

    return Tuned(lm, "text-to-text", tasks, ask, writes=True)
