"""Checkpoints that are whole or absent: staged, flushed, read back, hashed, renamed. No pickle anywhere.

Loading takes the newest checkpoint whose every byte is as written, and says why a newer one was passed over.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from tunesmith.core.errors import WorkFailed
from tunesmith.core.files import sync_directory, verify_manifest, write_checked, write_manifest
from tunesmith.core.progress import say

_KEEP = 2
# Files of this size are written, flushed, read back and hashed side by side: one core hashes slower than a disk writes.
_PART_BYTES = 1 << 25
_THREADS = 4
# The names that the safetensors format has for types.
_TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL",
    torch.uint8: "U8", torch.int8: "I8", torch.int16: "I16", torch.int32: "I32", torch.int64: "I64",
}  # fmt: skip


def save(folder: Path, step: int, tensors: Mapping[str, Mapping[str, torch.Tensor]], state: Mapping[str, Any]) -> Path | None:
    """Write checkpoint `step` below `folder` and prune others, keeping it and the newest one before it.

    Args:
        tensors: file stem (without a dot) -> tensors by name. state: plain JSON values.

    Returns:
        Where it stands; None if the disk could not take it, which is said aloud while training goes on with the
        earlier checkpoints untouched.
    """
    final = folder / f"step-{step:08d}"
    stage = folder / f".{final.name}.tmp-{os.getpid()}"
    if final.is_dir() and not _problem(final):
        return final
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        parts = _parts(tensors)
        _check_room(folder, parts)
        stage.mkdir()
        shutil.rmtree(final, ignore_errors=True)
        with ThreadPoolExecutor(_THREADS) as pool:
            text = json.dumps(dict(state), indent=2, ensure_ascii=False, default=str) + "\n"
            last = pool.submit(write_checked, stage / "state.json", [text.encode()])
            written = list(pool.map(lambda name: _write_tensors(stage / name, parts[name]), parts))
        write_manifest(stage, {"step": step}, {**dict(zip(parts, written, strict=True)), "state.json": last.result()})
        os.replace(stage, final)
        sync_directory(folder)
    except (OSError, WorkFailed) as error:
        # After the rename, too: what is said to be missing must not turn up later.
        shutil.rmtree(stage, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)
        say(f"WARNING: checkpoint {step} could not be written ({_why(error)}); training goes on, earlier checkpoints are kept")
        return None
    _prune(folder, final)
    return final


def latest(folder: Path) -> tuple[int, dict[str, dict[str, torch.Tensor]], dict[str, Any]] | None:
    """Return (step, tensors by file stem, state) of the newest checkpoint that verifies, or None."""
    for candidate in _all(folder):
        problem = _problem(candidate)
        if not problem:
            try:
                return _read(candidate)
            except (OSError, ValueError, SafetensorError) as error:
                problem = f"it cannot be read ({error})"
        say(f"checkpoint {candidate.name} is passed over: {problem}")
    return None


def _problem(folder: Path) -> str:
    """Return "" for a checkpoint that is as written, else what is wrong with it."""
    if problem := verify_manifest(folder):
        return problem
    text = (folder / "MANIFEST.json").read_text(encoding="utf-8")
    if not text.endswith("}\n"):
        return "MANIFEST.json has been cut off"
    step = json.loads(text).get("step")
    return "" if step == _step(folder) else f"its manifest is that of step {step}"


def _read(folder: Path) -> tuple[int, dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Read what the manifest lists; a file that was put beside it is not part of the checkpoint."""
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for name in json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))["files"]:
        if name.endswith(".safetensors"):
            tensors.setdefault(name.partition(".")[0], {}).update(load_file(folder / name))
    return _step(folder), tensors, json.loads((folder / "state.json").read_text(encoding="utf-8"))


def _parts(tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, dict[str, torch.Tensor]]:
    """Cut groups into files of about `_PART_BYTES`: stem.safetensors, stem.1.safetensors, ..."""
    files: dict[str, dict[str, torch.Tensor]] = {}
    for stem, group in tensors.items():
        part, size, number = files.setdefault(f"{stem}.safetensors", {}), 0, 0
        for name, tensor in group.items():
            if part and size + tensor.nbytes > _PART_BYTES:
                number, size = number + 1, 0
                part = files.setdefault(f"{stem}.{number}.safetensors", {})
            part[name] = tensor
            size += tensor.nbytes
    return files


def _write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Write one file in the safetensors format: length of the header, header, bytes; largest types first, so all are aligned."""
    header, data, at = {}, [], 0
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        view = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        header[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [at, at + len(view)]}
        data.append(view)
        at += len(view)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return write_checked(path, [len(text).to_bytes(8, "little") + text, *data])


def _check_room(folder: Path, parts: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Leave a disk alone that cannot take the checkpoint, instead of filling it to the brim first."""
    needed = sum(tensor.nbytes for part in parts.values() for tensor in part.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {needed / 1e6:,.1f} MB needed, {free / 1e6:,.1f} MB free")


def _prune(folder: Path, newest: Path) -> None:
    """Remove all but the newest and the one before it.

    One of a later step was passed over when this run began, so it goes too: counted among those to keep, damaged ones
    would push out those that are whole.
    """
    before = [path for path in _all(folder) if path.name < newest.name]
    for path in {*_all(folder)} - {newest, *before[: _KEEP - 1]}:
        shutil.rmtree(path, ignore_errors=True)


def _why(error: Exception) -> str:
    return error.message if isinstance(error, WorkFailed) else str(error)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def _all(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-" + "[0-9]" * 8), reverse=True)


def _sweep(folder: Path) -> None:
    for orphan in folder.glob(".step-*.tmp-*"):
        shutil.rmtree(orphan, ignore_errors=True)
