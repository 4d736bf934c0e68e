"""TRL's RLOOTrainer with LoRA and a price of divergence on the same prompts: one JSON line with rollouts per second.

Usage: python benchmarks/align/peer_rloo.py MODEL_FOLDER PROMPTS.jsonl [--method rloo|grpo] [--steps 4] [--rollouts 32]
[--new_tokens 32], with the Python of an environment that has TRL 1.16 (no PPO: it was taken out).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")


def trainer_of(options: argparse.Namespace) -> Any:
    """Return a trainer as TRL's documentation puts one together."""
    import torch
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from peft import LoraConfig

    torch.set_num_threads(2)
    rows = [json.loads(line) for line in Path(options.prompts).read_text(encoding="utf-8").splitlines()]
    settings = {"rloo": trl.RLOOConfig, "grpo": trl.GRPOConfig}[options.method](
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=options.rollouts, num_generations=4,
        max_steps=options.steps, max_completion_length=options.new_tokens, learning_rate=1e-5, beta=0.05, use_cpu=True,
        bf16=False, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = {"rloo": trl.RLOOTrainer, "grpo": trl.GRPOTrainer}[options.method]
    return trainer(
        model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16),
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows]),
        reward_funcs=lambda completions, **_: [float(text.count("e")) for text in completions],
        processing_class=AutoTokenizer.from_pretrained(options.model, padding_side="left"),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def main() -> None:
    """Train and print what was measured, start-up not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompts")
    parser.add_argument("--method", default="rloo", choices=["rloo", "grpo"])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--new_tokens", type=int, default=32)
    options = parser.parse_args()
    trainer = trainer_of(options)
    start = time.perf_counter()
    trainer.train()
    rate = options.steps * options.rollouts / (time.perf_counter() - start)
    print(json.dumps({"rollouts_per_second": rate, "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))


if __name__ == "__main__":
    main()
