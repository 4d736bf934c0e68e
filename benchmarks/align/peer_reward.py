"""TRL RewardTrainer with LoRA on a file of {prompt, chosen, rejected}: tokens and pairs per second (the peer of reward_speed.py).

Usage: python peer_reward.py --model DIRECTORY --rows FILE.jsonl [--steps 8] [--batch 16] [--threads 2]
Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

from peft import LoraConfig


def main() -> None:
    """Train for some steps and print how fast."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lines = Path(options.rows).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines][: options.steps * options.batch]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSequenceClassification.from_pretrained(options.model, num_labels=1, dtype=torch.bfloat16)
    model.config.pad_token_id = tokenizer.pad_token_id
    config = RewardConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=options.batch, max_steps=options.steps, learning_rate=1e-4,
        use_cpu=True, bf16=False, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True,
        gradient_checkpointing=False, max_length=512,
    )  # fmt: skip
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS", modules_to_save=["score"])
    trainer = RewardTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=adapter
    )
    start, processor = time.time(), time.process_time()
    trainer.train()
    seconds, processor = time.time() - start, time.process_time() - processor
    tokens = sum(len(tokenizer(row["prompt"] + row[key]).input_ids) + 1 for row in rows for key in ("chosen", "rejected"))
    report = {
        "peer": "trl RewardTrainer", "pairs": len(rows), "tokens": tokens, "seconds": seconds, "processor_seconds": processor,
        "tokens_per_second": tokens / seconds, "pairs_per_second": len(rows) / seconds,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main()
