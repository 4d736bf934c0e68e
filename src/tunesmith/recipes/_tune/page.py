"""`report.html` of `tune`, of `pretrain` and of learning from judgements, however the training ends."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tunesmith.core.errors import Interrupted, TunesmithError, WorkFailed
from tunesmith.core.files import write_json, write_manifest, write_text
from tunesmith.core.memory import peak_gb
from tunesmith.core.progress import say
from tunesmith.core.records import Encoded
from tunesmith.core.runs import read_metrics
from tunesmith.evaluate.report.training import TrainingReport, write_training_html
from tunesmith.models.load import LM
from tunesmith.recipes._align import config as _align_config
from tunesmith.recipes._pretrain import config as pretrain_config
from tunesmith.recipes._samples import sample
from tunesmith.recipes._tune import config as tune_config

_SAMPLES = 3
# How and where a run was made, not what was made.
_NO_SETTINGS = {"data", "run_dir", "overwrite", "resume"}


class TunePage:
    """Writes a run's page: with its report when it is finished, with what happened when an error passes through.

    Args:
        folder: the run's directory, which has its run.json.
        method: what is trained, for people ("lora").
        rows: what is learned from. warnings: about it. verb: the command's name.
    """

    def __init__(
        self, folder: Path, config: tune_config.Config | pretrain_config.Config | _align_config.Config, method: str, lm: LM,
        rows: Sequence[Encoded], warnings: list[str], verb: str = "tune",
    ) -> None:  # fmt: skip
        self._folder, self._config, self._method, self._warnings, self._verb = folder, config, method, warnings, verb
        self._samples = [(e.example_id, sample(lm.tokenizer, e)) for e in rows[:_SAMPLES]]

    def finish(self, report: dict[str, Any]) -> None:
        """Write `report.html`, `report.json` and the manifest of a run that is done."""
        self._write(report)
        write_json(self._folder / "report.json", report)
        write_manifest(self._folder)

    def _write(self, outcome: dict[str, Any]) -> None:
        record = json.loads((self._folder / "run.json").read_text(encoding="utf-8"))
        inputs = record["inputs"]
        settings = self._config.model_dump(exclude=_NO_SETTINGS, exclude_defaults=True)
        made_of = {"model": inputs["model_identity"], "rows": inputs["rows"], "adapter": inputs.get("adapter_sha256")}
        report = TrainingReport(
            data=Path(self._config.data).name, method=self._method, model=self._config.model or "", outcome=outcome,
            rows=read_metrics(self._folder), clip_norm=self._config.clip_norm, samples=self._samples, command=record["command"],
            provenance={
                **record["versions"], **{key: value for key, value in made_of.items() if value}, "seed": str(self._config.seed),
                "settings": json.dumps(settings, ensure_ascii=False),
            },
            verb=self._verb,
        )  # fmt: skip
        write_text(self._folder / "report.html", write_training_html(report))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            return
        by_signal = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
        if isinstance(error, TunesmithError):
            known: TunesmithError = error
        elif by_signal:
            known = WorkFailed("stopped at once, in the middle of a step", "The same command goes on from the newest checkpoint.")
        else:
            known = WorkFailed(f"{type(error).__name__}: {error}".rstrip(": "))
        outcome = {
            "status": "stopped" if by_signal else "failed", "error": known.message, "fix": known.fix,
            "run_dir": str(self._folder), "peak_memory_gb": peak_gb(), "warnings": self._warnings,
        }  # fmt: skip
        try:
            self._write(outcome)
        except (OSError, WorkFailed, ValueError, KeyError) as problem:
            say(f"WARNING: report.html could not be written ({problem})")
