"""TRL's SFTTrainer on prompt/completion rows; prints one JSON line. Runs in an environment of its own.

Usage: python peer_trl.py MODEL_DIR ROWS.jsonl lora|full     (pip install torch==2.13.0 trl==1.16.0 peft)
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from peft import LoraConfig


def main() -> None:
    """Train one epoch in bf16 at batch 8, the loss on completions only, and say how fast; on a GPU if there is one."""
    folder, rows, method = sys.argv[1:]
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    lines = [json.loads(line) for line in Path(rows).read_text(encoding="utf-8").splitlines()]
    data = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "completion": [{"role": "assistant", "content": row["completion"]}],
            }
            for row in lines
        ]
    )
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=8, num_train_epochs=1, learning_rate=1e-4, logging_steps=1,
        save_strategy="no", report_to="none", max_length=512, bf16=False,
        use_cpu=not torch.cuda.is_available(), gradient_checkpointing=False,
        disable_tqdm=True, completion_only_loss=True,
    )  # fmt: skip
    adapter = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16), args=arguments, train_dataset=data,
        processing_class=AutoTokenizer.from_pretrained(folder), peft_config=adapter if method == "lora" else None,
    )  # fmt: skip
    tokens = sum(map(len, trainer.train_dataset["input_ids"]))
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_reserved() / 1e9
    print(json.dumps({"tokens": tokens, "tokens_per_second": tokens / seconds, "peak_memory_gb": peak, "losses": losses}))


if __name__ == "__main__":
    main()
