"""What every command that trains can be told of its run, beside how to train."""

from __future__ import annotations

from pydantic import Field

from tunesmith.train.parameters import FitParameters


class TrainingRun(FitParameters):
    """How to train, on what machine, and where to keep it."""

    dtype: str = "auto"
    """bf16 or fp32; auto = bf16 where the processor computes it"""
    threads: int | None = Field(None, ge=1)
    """processor threads; absent = all"""
    seed: int = 0
    """what order, dropout, new weights and samples follow from"""
    run_dir: str | None = None
    """where to keep the run; absent = a folder in runs/ named after the command and the data"""
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
