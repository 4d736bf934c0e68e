"""What `tunesmith pretrain` can be told, apart from its work so that reading documents can know it too."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tunesmith.train.parameters import FitParameters


class Config(FitParameters):
    """Settings of `tunesmith pretrain`, beside those of training itself."""

    data: str
    """tasks and files of texts, separated by commas; of a task its training rows, of a .txt file its paragraphs"""
    objective: Literal["mlm", "clm"] = "mlm"
    """mlm hides tokens and predicts them (encoders), clm predicts each token from those before it (decoders)"""
    model: str = ""
    """embedded name, local directory or hub id; absent = minilm for mlm, smollm2 for clm"""
    learn: Literal["text", "answers", "both"] = "text"
    """what mlm hides: tokens of the text; or the answers of tasks, each row written into one of its task's patterns; or both"""
    mask_share: float = Field(0.15, gt=0, lt=1)
    """share of a row's tokens that mlm hides"""
    whole_words: bool = False
    """mlm hides all tokens of a word or none"""
    max_length: int = Field(128, ge=8)
    """tokens of a row; a longer document becomes several rows"""
    train_rows: int | None = Field(None, ge=1)
    """at most this many documents of each source"""
    held_out: int = Field(200, ge=1)
    """documents of each source, at most and of a file at most a tenth, to measure loss and perplexity on"""
    dtype: str = "auto"
    threads: int | None = None
    seed: int = 0
    run_dir: str | None = None
    """absent = runs/pretrain-OBJECTIVE-DATA"""
    overwrite: bool = False
    """start again in a run_dir that holds an earlier run"""
    resume: bool = True
    """go on from the newest checkpoint in run_dir, bit for bit; --resume false is --overwrite"""
    max_memory_gb: float | None = Field(None, gt=0, allow_inf_nan=False)
    """most memory to use, 10^9 bytes; absent = all that is available. A training that needs more is not started"""
    skip_bad_rows: bool = False
    """go on with the good rows of a file and list the bad ones"""
    allow_canary: bool = False
    """learn from rows that carry a canary (bigbench:TASK), which are meant for measuring only; the run records it"""

    @model_validator(mode="after")
    def _no_masks_for_clm(self) -> Self:
        given = sorted({"learn", "mask_share", "whole_words"} & self.model_fields_set)
        if given and self.objective == "clm":
            raise ValueError(f"{', '.join(given)} needs --objective mlm")
        if not any(self.sources):
            raise ValueError("data names no task and no file")
        return self

    @property
    def sources(self) -> list[str]:
        """The tasks and files that `data` names, each once."""
        return list(dict.fromkeys(name.strip() for name in self.data.split(",") if name.strip()))
