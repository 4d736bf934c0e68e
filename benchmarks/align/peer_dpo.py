"""TRL's DPOTrainer with LoRA on a file of {prompt, chosen, rejected}; prints one JSON line. Runs in an environment of its own.

Usage: python peer_dpo.py MODEL_DIR PAIRS.jsonl [--batch 4] [--precompute]     (pip install torch==2.13.0 trl==1.16.0 peft)
"""

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from peft import LoraConfig


def main() -> None:
    """Train one epoch in bf16 and say how fast; the time is that of `train`, and of asking the reference where that is apart."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("pairs")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--precompute", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    rows = [json.loads(line) for line in Path(options.pairs).read_text(encoding="utf-8").splitlines()]
    config = DPOConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=options.batch, num_train_epochs=1, learning_rate=1e-4,
        logging_steps=1, save_strategy="no", report_to="none", max_length=1024, bf16=False, use_cpu=True, beta=0.1,
        gradient_checkpointing=False, disable_tqdm=True, precompute_ref_log_probs=options.precompute,
    )  # fmt: skip
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    start = time.perf_counter()
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.bfloat16), args=config,
        train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(options.model), peft_config=adapter,
    )  # fmt: skip
    # With --precompute the reference is asked while the trainer is made.
    start = start if options.precompute else time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"pairs_per_second": len(rows) / seconds, "seconds": seconds, "peak_memory_gb": peak, "losses": losses}))


if __name__ == "__main__":
    main()
