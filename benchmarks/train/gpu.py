"""Training on a GPU, ours and TRL by turns: tokens per second, share of the machine's arithmetic, memory; goes to gpu.json.

Usage: python benchmarks/train/gpu.py [--peer PYTHON] [--rows 400] [--pairs 3] [--models smollm2,1.2] [--peak_tflops 989]

--models: an embedded name or directory, or a number: a Llama of about so many billion random weights. --peak_tflops: dense
bf16 arithmetic of the GPU by its data sheet (989 = H100 and H200). On a machine without one it runs on the processor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from rows import write_rows
from run import HERE, ours, run_json

from tunesmith.models.embedded import folder_of
from tunesmith.models.load import load_tokenizer


def random_llama(billions: float, folder: Path) -> Path:
    """Save a Llama with about so many billion random weights and smollm2's tokenizer and chat template."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    tokenizer = load_tokenizer("smollm2")
    layers = 16
    # A block has 4 D^2 weights in attention and 3 D (8/3 D) in its gated layer: 12 D^2.
    width = max(round((billions * 1e9 / (12 * layers)) ** 0.5 / 128), 1) * 128
    shape = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=8 * width // 3 // 64 * 64, num_hidden_layers=layers,
        num_attention_heads=max(width // 128, 1), num_key_value_heads=max(width // 128, 1), max_position_embeddings=2048,
        tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(shape).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def flops_per_token(model: Path, method: str) -> float:
    """Return the arithmetic of a training step per token, attention left out: 6 per weight, 4 where it is not trained."""
    from safetensors import safe_open

    count = 0
    for file in model.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            count += sum(torch.Size(tensors.get_slice(name).get_shape()).numel() for name in tensors.keys())  # noqa: SIM118
    return count * (6.0 if method == "full" else 4.0)


def measure(options: argparse.Namespace, model: Path, rows: Path, method: str, folder: Path) -> dict[str, Any]:
    """Alternate the peer, ours, and ours without compiling; ratios are made within each round."""
    rounds = []
    for _ in range(options.pairs):
        entry = (
            {"trl": run_json([options.peer, str(HERE / "peer_trl.py"), str(model), str(rows), method])} if options.peer else {}
        )
        entry |= {"ours": ours(rows, method, folder, model=str(model))}
        entry |= {"not_compiled": ours(rows, method, folder, "compile", model=str(model))}
        rounds.append(entry)
        print(json.dumps(entry), file=sys.stderr, flush=True)
    speed = statistics.median(r["ours"]["tokens_per_second"] for r in rounds)
    found: dict[str, Any] = {
        "tokens_per_second": speed, "share_of_arithmetic": speed * flops_per_token(model, method) / (options.peak_tflops * 1e12),
        "peak_memory_gb": statistics.median(r["ours"]["peak_memory_gb"] for r in rounds),
        "times_not_compiled": statistics.median(
            r["ours"]["tokens_per_second"] / r["not_compiled"]["tokens_per_second"] for r in rounds
        ),
    }  # fmt: skip
    if options.peer:
        found["times_trl"] = statistics.median(r["ours"]["tokens_per_second"] / r["trl"]["tokens_per_second"] for r in rounds)
        found["memory_of_trl"] = statistics.median(r["ours"]["peak_memory_gb"] / r["trl"]["peak_memory_gb"] for r in rounds)
    return {**found, "rounds": rounds}


def main() -> None:
    """Measure and write gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--models", default="smollm2,1.2")
    parser.add_argument("--methods", default="lora,full")
    parser.add_argument("--peak_tflops", type=float, default=989.0)
    options = parser.parse_args()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    results: dict[str, Any] = {"gpu": gpu, "torch": torch.__version__, "rows": options.rows}
    with tempfile.TemporaryDirectory() as temporary:
        rows = Path(temporary) / "rows.jsonl"
        results["row_tokens"] = write_rows(rows, load_tokenizer("smollm2"), options.rows)
        for name in options.models.split(","):
            random = name.replace(".", "", 1).isdigit()
            model = random_llama(float(name), Path(temporary) / name) if random else folder_of(name)
            for method in options.methods.split(","):
                results[f"{name} {method}"] = measure(options, model, rows, method, Path(temporary) / "run")
    (HERE / "gpu.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
