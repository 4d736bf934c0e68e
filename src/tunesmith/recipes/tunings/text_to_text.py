"""Text to text: an encoder-decoder reads a task's name and text and writes the answer; many tasks at once (Raffel 2020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.recipes._tune.text_to_text_config import Parameters

if TYPE_CHECKING:
    from tunesmith.recipes._tune import config as tune_config
    from tunesmith.recipes._tune.supervised import Supervised

# As published: a constant rate of 1e-3, but with AdamW (the paper has Adafactor). No embedded model is a T5 that was pre-trained.
DEFAULTS: dict[str, Any] = {"model": "toy-t5", "peft": {"name": "full"}, "schedule": "constant", "dtype": "fp32"}
LEARNING_RATES = {"full": 1e-3}


def supervise(config: tune_config.Config, parameters: Parameters) -> Supervised:
    """Load an encoder-decoder and read the rows of all tasks.

    Raises:
        UserError: unusable data or settings, named by file, row or key.
    """
    from tunesmith.models.seq2seq import load_seq2seq
    from tunesmith.objectives import causal_lm
    from tunesmith.recipes._tune.supervised import Supervised, with_adapter
    from tunesmith.recipes._tune.text_to_text import TextTasks, teacher_forced
    from tunesmith.train.probes import check_training_data

    lm = load_seq2seq(config.model_name, config.dtype)
    adapter = with_adapter(lm, config.adapter)
    tasks = TextTasks.of(config, parameters, lm)
    rows = tasks.rows()
    check_training_data(rows.train, lm.tokenizer, lm.stop_ids)
    if config.activation_checkpointing:
        lm.model.activation_checkpointing_enable({"use_reentrant": False})
    prompts = [e.ids[: e.loss_mask.index(True)] for e in rows.train[:3]]
    loss_of = teacher_forced(lm, causal_lm.loss)
    return Supervised(lm, rows, loss_of, prompts, tasks.validation(), adapter, task_type="SEQ_2_SEQ_LM", asked=tasks.asked())
