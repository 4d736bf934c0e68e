"""What `tunesmith tune` can be told, apart from its work so that reading rows can know it too."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tunesmith.core.errors import unknown
from tunesmith.core.registry import ENGINES
from tunesmith.train.parameters import FitParameters


class Config(FitParameters):
    """Settings of `tunesmith tune`, beside those of training itself."""

    data: str
    """a task (name or YAML), or a file of messages, prompt/completion, Alpaca, ShareGPT or text/label rows"""
    model: str = "smollm2"
    """embedded name, local directory or hub id"""
    adapter: str | None = None
    """adapter directory to go on from; its method and shape are kept"""
    peft: str | dict[str, Any] = "lora"
    """what is trained: lora or full, with its own parameters (--peft.rank 8)"""
    objective: Literal["causal_lm"] = "causal_lm"
    max_length: int = Field(1024, ge=2)
    """longest row in tokens; longer ones stop the run or are dropped, never cut"""
    over_long: Literal["stop", "drop"] = "stop"
    train_rows: int | None = Field(None, ge=1)
    """at most this many rows"""
    validation_rows: int = Field(200, ge=0)
    """at most this many rows for choosing the best weights; 0 = none"""
    dtype: str = "auto"
    threads: int | None = None
    seed: int = 0
    run_dir: str | None = None
    """absent = runs/tune-DATA"""
    overwrite: bool = False
    """start again in a run_dir that holds an earlier run"""
    resume: bool = True
    """go on from the newest checkpoint in run_dir, bit for bit; --resume false is --overwrite"""
    skip_bad_rows: bool = False
    """go on with the good rows of a file and list the bad ones"""

    engine: str = "local"
    """where to train: local (this process), or ray (several workers, here or on a cluster)"""
    workers: int = Field(1, ge=1)
    """processes that train together, each with a share of a step's rows and of the weights; needs --engine ray"""
    address: str | None = None
    """a running Ray cluster, for example auto or ray-head:6379; absent = start one here"""
    restarts: int = Field(3, ge=0)
    """how often to start again from the newest checkpoint when a worker of --engine ray is lost"""
    shard: Literal["all", "trained"] = "all"
    """weights divided among workers: all, or only the trained ones, where each can hold a frozen base (far less traffic)"""

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str) -> str:
        if value not in ENGINES.names():
            raise ValueError(str(unknown("engine", value, ENGINES.names())))
        return value

    @field_validator("peft", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        # --peft.rank 8 by itself speaks of the default method.
        return {"name": "lora", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_method(self) -> Self:
        if self.adapter and "peft" in self.model_fields_set:
            raise ValueError("peft and adapter exclude each other: an adapter is trained further by its own method")
        return self

    @model_validator(mode="after")
    def _one_worker_alone(self) -> Self:
        given = {"workers", "address", "restarts", "shard"} & self.model_fields_set
        if given and self.engine == "local":
            raise ValueError(f"{', '.join(sorted(given))} needs --engine ray")
        return self
