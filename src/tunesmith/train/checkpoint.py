"""Checkpoints that are whole or absent: staged, flushed, hashed, renamed, verified. No pickle anywhere.

Loading takes the newest checkpoint whose every byte is as written, and says why a newer one was passed over.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunesmith.core.errors import WorkFailed
from tunesmith.core.files import sync_directory, verify_manifest, write_json, write_manifest
from tunesmith.core.progress import say

_KEEP = 2


def save(folder: Path, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, Any]) -> Path | None:
    """Write checkpoint `step` below `folder` and prune older ones, keeping the two newest.

    Args:
        tensors: file stem -> tensors by name. state: plain JSON values.

    Returns:
        Where it stands; None if the disk could not take it, which is said aloud while training goes on with the
        earlier checkpoints untouched.
    """
    final = folder / f"step-{step:08d}"
    stage = folder / f".{final.name}.tmp-{os.getpid()}"
    if final.is_dir() and not verify_manifest(final):
        return final
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        stage.mkdir()
        for stem, group in tensors.items():
            path = stage / f"{stem}.safetensors"
            save_file({name: t.detach().cpu().contiguous() for name, t in group.items()}, path)
            _flush(path)
        write_json(stage / "state.json", dict(state))
        write_manifest(stage, {"step": step})
        sync_directory(stage)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(stage, final)
        sync_directory(folder)
    except (OSError, SafetensorError, WorkFailed) as error:
        shutil.rmtree(stage, ignore_errors=True)
        say(f"WARNING: checkpoint {step} could not be written ({_why(error)}); training goes on, earlier checkpoints are kept")
        return None
    if problem := verify_manifest(final):
        say(f"WARNING: checkpoint {step} did not read back as written ({problem}); earlier checkpoints are kept")
        return None
    for old in _all(folder)[_KEEP:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest(folder: Path) -> tuple[int, dict[str, dict[str, torch.Tensor]], dict[str, Any]] | None:
    """Return (step, tensors by file stem, state) of the newest checkpoint that verifies, or None."""
    for candidate in _all(folder):
        problem = verify_manifest(candidate)
        if problem:
            say(f"checkpoint {candidate.name} is passed over: {problem}")
            continue
        state = json.loads((candidate / "state.json").read_text(encoding="utf-8"))
        tensors = {path.stem: load_file(path) for path in candidate.glob("*.safetensors")}
        return int(candidate.name.removeprefix("step-")), tensors, state
    return None


def _why(error: Exception) -> str:
    return error.message if isinstance(error, WorkFailed) else str(error)


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _sweep(folder: Path) -> None:
    for orphan in folder.glob(".step-*.tmp-*"):
        shutil.rmtree(orphan, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
