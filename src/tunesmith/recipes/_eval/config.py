"""What `tunesmith eval` can be told, apart from its work."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from tunesmith.core.config import Config as BaseConfig


class Config(BaseConfig):
    """Settings of `tunesmith eval`."""

    task: str | None = None
    """a task of Tunesmith: name, YAML, or file of text and label rows"""
    lm_eval_tasks: list[str] = []
    """instead: tasks, groups or tags of lm-eval by name, or their YAML files; needs pip install 'tunesmith[eval]'"""
    model: str = "smollm2"
    """embedded name, local directory or hub id"""
    adapter: str | None = None
    """adapter directory"""
    limit: int | None = Field(None, ge=1)
    """at most this many items a task"""
    num_fewshot: int | None = Field(None, ge=0)
    """examples before each item of an lm-eval task; absent = as the task says"""
    apply_chat_template: bool = False
    """put the prompts of lm-eval tasks into the model's chat template"""
    dtype: str = "auto"
    threads: int | None = None
    cache_gb: float = Field(2.0, gt=0, allow_inf_nan=False)
    """most memory for keys and values of prompts, 10^9 bytes; less is slower and gives the same answers"""
    seed: int = 0
    """of bootstrap intervals and sampled answers; few-shot examples of lm-eval tasks are those of its own command"""
    run_dir: str | None = None
    """absent = runs/eval-TASK"""
    overwrite: bool = False
    """start again in a run_dir that holds an earlier run"""
    skip_bad_rows: bool = False
    """go on with the good rows of a task's files and list the bad ones"""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.task is None) == (not self.lm_eval_tasks):
            raise ValueError("give either a task or --lm_eval_tasks")
        if self.task is not None and (given := {"num_fewshot", "apply_chat_template"} & self.model_fields_set):
            raise ValueError(f"{', '.join(sorted(given))} is for lm_eval_tasks; a task's YAML has its own template")
        if self.lm_eval_tasks and "skip_bad_rows" in self.model_fields_set:
            raise ValueError("skip_bad_rows is for a task of Tunesmith")
        return self
