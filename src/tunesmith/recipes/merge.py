"""Merge an adapter into its base, or combine several into one model or adapter; the base itself stays as it is."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from tunesmith.core.config import Config as BaseConfig
from tunesmith.core.errors import UserError, WorkFailed

if TYPE_CHECKING:
    from tunesmith.models.load import LM
    from tunesmith.peft._merging import Change

POSITIONAL = "adapters"
EXAMPLES = (
    "tunesmith merge runs/tune-movies/adapter",
    "tunesmith merge a/adapter b/adapter --method ties --density 0.5",
    "tunesmith merge a/adapter b/adapter --weights 0.7,0.3 --into adapter",
)
# Largest logit difference that rounding explains, the merged weights computed with in float32.
_ROUNDING = {"fp32": 1e-3, "bf16": 0.5}


class Config(BaseConfig):
    """Settings of `tunesmith merge`."""

    adapters: list[str] = Field(min_length=1)
    """directories of one or several adapters"""
    model: str | None = None
    """their base: embedded name, directory or hub id; absent = the one they name"""
    method: Literal["linear", "ties", "dare"] = "linear"
    """how several become one: weighted sum, TIES (Yadav et al. 2023) or DARE (Yu et al. 2024)"""
    weights: list[float] = []
    """one for each adapter; absent = 1 for ties, which takes means itself, else 1 / number of adapters"""
    density: float = Field(0.5, gt=0, le=1)
    """share of the changes that ties (the largest) and dare (drawn) keep"""
    seed: int = 0
    """decides what dare drops"""
    into: Literal["model", "adapter"] = "model"
    """what to write; adapter = one LoRA of summed rank, exact for a linear combination of LoRAs"""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """precision of what is written; merging is always done in fp32, and bf16 rounds small changes away"""
    tolerance: float | None = Field(None, gt=0, allow_inf_nan=False)
    """largest logit difference allowed; absent = 0.001 in fp32, 0.5 in bf16"""
    run_dir: str | None = None
    """absent = runs/merge-NAMES"""
    overwrite: bool = False
    """throw away what an earlier merge left in run_dir"""
    threads: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        if self.weights and len(self.weights) != len(self.adapters):
            raise ValueError(f"{len(self.weights)} weights for {len(self.adapters)} adapters: give one for each")
        if self.method != "linear" and self.into == "adapter":
            raise ValueError(f"what {self.method} makes of matrices has no low rank, so no adapter holds it: use into=model")
        given = self.model_fields_set
        if "density" in given and self.method == "linear":
            raise ValueError("density is for the methods ties and dare; linear keeps every change")
        if "seed" in given and self.method != "dare":
            raise ValueError("seed is for the method dare, the only one that draws")
        return self

    @property
    def shares(self) -> list[float]:
        """The weight of each adapter."""
        usual = 1.0 if self.method == "ties" else 1 / len(self.adapters)
        return self.weights or [usual] * len(self.adapters)


def run(config: Config) -> dict[str, Any]:
    """Merge in float32, write, read back what was written, and compare its logits on the adapters' probes.

    Returns:
        status, run_dir, artefact, base, base_identity, method, weights, density, dtype, changed (weights that differ from the
        base's), effect, difference, tolerance, peak_memory_gb, warnings.

    Raises:
        UserError: no adapter, adapters of different bases or shapes, or one that cannot be merged.
        WorkFailed: the logits differ by more than the tolerance; nothing is left behind.
    """
    from tunesmith.core.files import sha256, write_json, write_manifest
    from tunesmith.core.memory import peak_gb
    from tunesmith.core.runs import Run
    from tunesmith.models.load import load
    from tunesmith.peft import _merging
    from tunesmith.recipes._command import command_of
    from tunesmith.recipes._models import quiet_libraries, use_threads

    folders = _folders(config)
    base = _merging.base_of(folders, config.model)
    quiet_libraries()
    use_threads(config.threads)
    lm = load(base, "fp32")
    changes = [_merging.change_of(lm, folder) for folder in folders]
    inputs = {
        **config.model_dump(exclude={"adapters", "run_dir", "overwrite", "threads", "tolerance"}),
        "model_identity": lm.identity, "adapters_sha256": [sha256(folder / "adapter_model.safetensors") for folder in folders],
    }  # fmt: skip
    about = {"command": command_of("merge", config.adapters[0], config), "parents": config.adapters}
    target = Path(config.run_dir or f"runs/merge-{'-'.join(dict.fromkeys(_name(folder) for folder in folders))}")
    saved = Run(target, inputs, about, config.overwrite)
    artefact, difference = _written(config, lm, changes, saved.folder)
    report = {
        "status": "done", "run_dir": str(saved.folder), "artefact": str(artefact), "base": base, "base_identity": lm.identity,
        "method": config.method, "weights": config.shares, "density": None if config.method == "linear" else config.density,
        "dtype": config.dtype, "changed": len({name for change in changes for name in change.deltas}),
        "effect": max(change.effect for change in changes), "difference": difference, "tolerance": _tolerance(config),
        "peak_memory_gb": peak_gb(), "warnings": [],
    }  # fmt: skip
    write_json(saved.folder / "report.json", report)
    write_manifest(saved.folder)
    return report


def _folders(config: Config) -> list[Path]:
    folders = [Path(adapter) for adapter in config.adapters]
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"there is no adapter directory '{folder}'", "Give the folder that holds adapter_config.json.")
    return folders


def _name(adapter: Path) -> str:
    """What a folder is called: that of the run it is in, where it is a run's own `adapter`."""
    place = adapter.resolve()
    return place.parent.name if place.name == "adapter" else place.name


def _tolerance(config: Config) -> float:
    return config.tolerance or _ROUNDING[config.dtype]


def _written(config: Config, lm: LM, changes: Sequence[Change], folder: Path) -> tuple[Path, float]:
    """Write the model or adapter; returns where, and the largest logit difference of what was written."""
    import torch

    from tunesmith.models.load import load
    from tunesmith.peft import _merging, full, lora
    from tunesmith.recipes._artefact import save_artefact
    from tunesmith.recipes._models import load as load_adapted

    prompts = list(dict.fromkeys(ids for change in changes for ids in change.prompts))
    title = "Combination" if len(changes) > 1 else "Merge"
    dtype = torch.bfloat16 if config.dtype == "bf16" else torch.float32
    _merging.apply(lm, changes, config.method, config.shares, config.density, config.seed)
    # One whole adapter has logits of its own to come back to; a combination those of the merged weights in float32.
    alone = len(changes) == 1 and config.method == "linear" and config.shares == [1.0]
    wanted = changes[0].logits if alone else _merging.last_logits(lm, prompts)
    if config.into == "adapter":
        base = load(lm.name, "fp32")
        parameters = _merging.as_one_lora(base, changes, config.shares)
        base.model.to(dtype)
        artefact = save_artefact(folder, base, (lora, parameters), prompts, title)
        saved = load_adapted(lm.name, str(artefact), "fp32")
    else:
        lm.model.to(dtype)
        artefact = save_artefact(folder, lm, (full, full.Parameters()), [], title)
        saved = load(str(artefact), "fp32")
    difference = _merging.largest_difference(_merging.last_logits(saved, prompts), wanted)
    if difference > _tolerance(config):
        shutil.rmtree(artefact)
        raise WorkFailed(
            f"what was written gives other logits than the adapter on its base: they differ by up to {difference:.3g}, and "
            f"{_tolerance(config):g} is allowed",
            "Write fp32, which keeps small changes: --dtype fp32." if config.dtype == "bf16" else "Allow more: --tolerance.",
        )
    return artefact, difference


def render(report: dict[str, Any]) -> str:
    """Return what was written and how exactly."""
    how = "" if len(report["weights"]) == 1 else f" {report['method']}, weights {', '.join(f'{w:g}' for w in report['weights'])};"
    return (
        f"{report['artefact']}:{how} {report['changed']} weights of {report['base']} changed\n"
        f"largest logit difference {report['difference']:.2g} ({report['dtype']}; allowed {report['tolerance']:g}); "
        f"an adapter by itself changes logits by up to {report['effect']:.3g}"
    )
