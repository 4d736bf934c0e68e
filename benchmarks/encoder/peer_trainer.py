"""One epoch of transformers' Trainer on rows of {"text", "label"}: python peer_trainer.py FOLDER TRAIN TEST THREADS SEED.

FOLDER holds an encoder; TRAIN and TEST are JSON lines. Float32, batches of 32, learning rate 1e-4, the Trainer's own choices
for the rest: AdamW without weight decay, a linear schedule, rows in random order padded to the longest of a batch.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments


def read(path: str) -> list[dict]:
    """Return the rows of a file."""
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def main() -> None:
    """Train, answer the test rows and print one JSON object."""
    folder, train, test, threads, seed = sys.argv[1:]
    torch.set_num_threads(int(threads))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = Dataset.from_list([{**tokenizer(row["text"]), "labels": row["label"]} for row in read(train)])
    torch.manual_seed(int(seed))
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32)
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=32, num_train_epochs=1, learning_rate=1e-4, seed=int(seed),
        use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=DataCollatorWithPadding(tokenizer))
    seconds = trainer.train().metrics["train_runtime"]
    model.eval()
    right, asked = 0, read(test)
    with torch.inference_mode():
        for start in range(0, len(asked), 50):
            some = asked[start : start + 50]
            batch = tokenizer([row["text"] for row in some], padding=True, return_tensors="pt")
            right += int((model(**batch).logits.argmax(-1) == torch.tensor([row["label"] for row in some])).sum())
    tokens = sum(map(len, rows["input_ids"]))
    print(json.dumps({"tokens": tokens, "tokens_per_second": tokens / seconds, "accuracy": right / len(asked)}))


if __name__ == "__main__":
    main()
