"""`tunesmith plan X` of commands other than tune and ladder: it says what X then does, and leaves nothing behind."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from tickets import write_task

from tunesmith.cli import main

PRETRAIN = ("--epochs", "1", "--batch_size", "8", "--max_length", "48", "--held_out", "10", "--threads", "1")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def reported(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    code = main([*words, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.mark.parametrize(("objective", "model"), [("mlm", "toy-bert"), ("clm", "toy-llama"), ("span", "toy-t5")])
def test_a_pre_training_is_as_planned(objective: str, model: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"a note of some length about matter {i}, written down for {i % 7} people who asked" for i in range(60)]
    (here / "notes.txt").write_text("\n\n".join(lines))
    words = ["pretrain", "notes.txt", "--objective", objective, "--model", model, *PRETRAIN]
    plan = reported(capsys, "plan", *words)
    assert os.listdir(here) == ["notes.txt"]
    done = reported(capsys, *words)
    for key in ("run_dir", "steps", "trained_parameters", "tokens", "supervised_tokens"):
        assert plan[key] == done[key], key
    assert plan["fits"]
    assert sum(bar["rows"] for bar in plan["histogram"]) == plan["rows"]
    assert plan["peak_memory_gb"] < 1.5 * done["peak_memory_gb"]
    # Control: twice the epochs, twice the steps and, about, the seconds.
    twice = reported(capsys, "plan", *words, "--epochs", "2")
    assert twice["steps"] == 2 * plan["steps"]


def test_rounds_are_planned_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_task(tmp_path / name) for name in ("one", "two"))
    text = second.read_text(encoding="utf-8").replace("name: ", "name: other-", 1)
    other = second.with_name("other.yaml")
    other.write_text(text, encoding="utf-8")
    words = ["rounds", f"{first},{other}", "--model", "toy-llama", "--peft", "lora", "--max_steps", "3", "--threads", "1"]
    words += ["--train_rows", "24", "--validation_rows", "4", "--test_rows", "6", "--run_dir", str(tmp_path / "run")]
    plan = reported(capsys, "plan", *words)
    assert not (tmp_path / "run").exists()
    assert [r["steps"] for r in plan["rounds"]] == [3, 3]
    assert plan["seconds"] == pytest.approx(
        sum(r["seconds"] + r["evaluation_seconds"] for r in plan["rounds"]) + plan["matrix_seconds"]
    )
    assert plan["peak_memory_gb"] == max(r["peak_memory_gb"] for r in plan["rounds"])
    assert main(["plan", *words]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "2 rounds" in out


def test_one_way_of_prompting_costs_what_its_row_of_a_ladder_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = str(write_task(tmp_path))
    flags = ["--model", "toy-llama", "--threads", "1"]
    alone = reported(capsys, "plan", "prompt", task, "--method", "few_shot", *flags)
    ladder = reported(capsys, "plan", "ladder", task, "--routes", "few-shot,zero-shot", *flags)
    assert [r["route"] for r in alone["routes"]] == [ladder["routes"][0]["route"]]
    assert alone["routes"][0]["memory_gb"] == ladder["routes"][0]["memory_gb"]
    assert main(["plan", "prompt", task, "--method", "lora", *flags]) == 2
    assert "no way of prompting" in capsys.readouterr().err


PAIRS = [{"prompt": f"What is {i} and 1? ", "chosen": f"It is {i + 1}.", "rejected": f"No idea about {i}"} for i in range(24)]


def test_a_reward_model_is_as_planned(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    words = ["reward", "pairs.jsonl", "--model", "toy-llama", "--epochs", "2", "--batch_size", "4", "--threads", "1"]
    plan = reported(capsys, "plan", *words)
    assert os.listdir(here) == ["pairs.jsonl"]
    done = reported(capsys, *words)
    for key in ("run_dir", "steps", "trained_parameters"):
        assert plan[key] == done[key], key
    assert 2 * plan["tokens"] == done["tokens"]
    assert plan["fits"]


@pytest.mark.parametrize(
    "method",
    [
        ["--method", "dpo", "--epochs", "2", "--batch_size", "4"],
        ["--method", "kto", "--epochs", "2", "--batch_size", "4"],
        ["--method", "ppo", "--scorer", "scorer.py:score", "--steps", "2", "--rollouts", "4", "--max_new_tokens", "4"],
    ],
    ids=["dpo", "kto", "ppo"],
)
def test_an_alignment_is_as_planned(method: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (here / "scorer.py").write_text("def score(prompts, answers):\n    return [float(len(a)) for a in answers]\n")
    words = ["align", "pairs.jsonl", *method, "--model", "toy-llama", "--threads", "1", "--seed", "0"]
    words += ["--allow_attackable", "true"] if "ppo" in method else []
    before = sorted(os.listdir(here))
    plan = reported(capsys, "plan", *words)
    assert [name for name in sorted(os.listdir(here)) if name != "__pycache__"] == before
    done = reported(capsys, *words)
    for key in ("run_dir", "steps", "trained_parameters"):
        assert plan[key] == done[key], key
    assert plan["fits"]
    assert plan["seconds"] > 0


def test_what_trains_nothing_is_not_planned(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    assert main(["plan", "align", "pairs.jsonl", "--method", "best-of-n", "--scorer", "lexicon", "--model", "toy-llama"]) == 2
    assert "trains nothing" in capsys.readouterr().err
