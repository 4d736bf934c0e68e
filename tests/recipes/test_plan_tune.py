"""`tunesmith plan tune`, refusals for want of memory, and settings found by trying."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith import cli
from tunesmith.core.files import sha256
from tunesmith.core.memory import resident_gb
from tunesmith.recipes.plans import _shown

TOY = ["--model", "toy-llama", "--threads", "1", "--guard", "false"]
ADAPTER = "adapter/adapter_model.safetensors"
DOCUMENTED = {
    "status", "recipe", "run_dir", "model", "peft", "rows", "over_long", "tokens", "supervised_tokens", "histogram", "max_length",
    "tokens_per_micro_batch", "steps", "trained_parameters", "fits", "peak_memory_gb", "available_gb", "settings_that_fit",
    "seconds", "tokens_per_second", "loading_seconds", "disk_gb",
    "evaluation_seconds", "checkpoint_gb", "artefact_gb", "warnings",
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty folder with a file of rows, on one thread afterwards as before."""
    monkeypatch.chdir(tmp_path)
    write("rows.jsonl", count=40, words=2)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def write(name: str, count: int, words: int) -> str:
    """Write chats whose questions repeat a few words up to so many times."""
    turns = [(f"say {i} " * (1 + i % words), f"{i} it is") for i in range(count)]
    rows = [{"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in turns]
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Run a command line; its exit code, stdout and stderr."""
    code = cli.main([*words])
    out, err = capsys.readouterr()
    return code, out, err


def reported(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Run a command with --json, which must succeed, and read the last line of stdout."""
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


def alone(*words: str) -> dict[str, Any]:
    """Run a command in a process of its own, which alone has a peak of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "tunesmith", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_a_plan_says_everything_and_leaves_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = reported(capsys, "plan", "tune", "rows.jsonl", *TOY, "--batch_size", "4", "--epochs", "2")
    assert set(report) == DOCUMENTED
    assert os.listdir(here) == ["rows.jsonl"]
    done = reported(capsys, "tune", "rows.jsonl", *TOY, "--batch_size", "4", "--epochs", "2")
    for key in ("run_dir", "steps", "trained_parameters"):
        assert report[key] == done[key], key
    assert report["tokens"] * 2 == done["tokens"]
    assert report["supervised_tokens"] * 2 == done["supervised_tokens"]
    assert sum(b["rows"] for b in report["histogram"]) == 40  # those of the validation too
    assert report["fits"]
    assert report["settings_that_fit"] == []


def test_the_plan_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", "tune", write("many.jsonl", 60, 30), *TOY)
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("█") > 40
    assert "memory" in out
    assert "time" in out
    assert "disk" in out


def test_over_long_rows_are_counted_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    write("rows.jsonl", 60, 10)
    report = reported(capsys, "plan", "tune", "rows.jsonl", *TOY, "--max_length", "60", "--validation_rows", "0")
    long = report["over_long"]
    assert 0 < long < 60
    assert report["rows"] == 60 - long
    assert any("tune will stop at them" in w for w in report["warnings"])
    # Control: a length that all rows have.
    assert reported(capsys, "plan", "tune", "rows.jsonl", *TOY, "--max_length", "500")["over_long"] == 0
    code, _, err = run(capsys, "tune", "rows.jsonl", *TOY, "--max_length", "60", "--validation_rows", "0")
    assert code == 2
    assert f"{long} of 60 rows are longer" in err


def test_histogram_classes_are_round_and_hold_every_row() -> None:
    lengths = [1, 5, 9, 10, 11, 99, 350]
    bars = _shown.histogram(lengths)
    assert [b["rows"] for b in bars] == [5, 1, 0, 0, 0, 0, 0, 1]
    assert bars[-1] == {"low": 350, "high": 399, "rows": 1}
    for longest in (1, 9, 10, 19, 99, 100, 101, 250, 999, 1000, 2048, 123_456):
        bars = _shown.histogram([1, longest])
        assert len(bars) <= 10, longest
        assert sum(b["rows"] for b in bars) == 2, longest


@pytest.mark.parametrize("method", ["lora", "full"])
def test_the_forecast_comes_true(method: str) -> None:
    # Rows of about 900 tokens, all of a step at once: the activations weigh as much as the libraries.
    write("long.jsonl", 20, 1)
    text = " ".join(["word"] * 180)
    rows = [{"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": f"{i} ok"}]} for i in range(20)]
    Path("long.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    flags = ["long.jsonl", *TOY, "--peft", method, "--validation_rows", "0"]
    large = alone("plan", "tune", *flags, "--tokens_per_micro_batch", "16384")
    done = alone("tune", *flags, "--tokens_per_micro_batch", "16384")
    assert large["peak_memory_gb"] == pytest.approx(done["peak_memory_gb"], rel=0.15)
    # Only the order of magnitude: other work on the machine slows one of two short runs down and not the other.
    assert 0.2 < large["seconds"] / done["seconds"] < 5
    if method == "full":
        # Control: with small micro-batches another peak is foretold, which would not pass.
        small = alone("plan", "tune", *flags, "--tokens_per_micro_batch", "1000")
        assert small["peak_memory_gb"] < 0.85 * done["peak_memory_gb"]


REFUSED = ["--peft", "full", "--batch_size", "16", "--tokens_per_micro_batch", "16384", "--max_steps", "1"]


def test_what_cannot_fit_is_refused_with_settings_that_do(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write("rows.jsonl", 60, 120)
    run(capsys, "tune", "rows.jsonl", *TOY, "--max_steps", "1", "--run_dir", "warm")
    limit = ["--max_memory_gb", f"{resident_gb() + 0.06:.3f}"]
    code, out, err = run(capsys, "tune", "rows.jsonl", *TOY, *REFUSED, *limit)
    assert code == 2
    assert out == ""
    assert not Path("runs").exists(), "nothing was begun"
    options = re.search(r"Any of these would fit: (.*)\.", err)
    assert options, err
    settings = options[1].split("; ")
    assert [s.split()[0] for s in settings] == ["--tokens_per_micro_batch", "--peft", "--max_length"]
    for number, setting in enumerate(settings):
        code, _, err = run(capsys, "tune", "rows.jsonl", *TOY, *REFUSED, *limit, *shlex.split(setting), "--run_dir", f"r{number}")
        assert code == 0, (setting, err)


def test_enough_memory_is_not_refused(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "tune", "rows.jsonl", *TOY, "--max_steps", "1", "--max_memory_gb", f"{resident_gb() + 1:.2f}")
    assert code == 0, err


def test_a_plan_of_what_cannot_fit_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["plan", "tune", "rows.jsonl", *TOY, "--max_memory_gb", "0.01"]
    report = reported(capsys, *flags)
    assert not report["fits"]
    assert report["seconds"] is None
    assert "IT DOES NOT FIT" in run(capsys, *flags)[1]


def test_where_nothing_helps_a_smaller_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "tune", "rows.jsonl", *TOY, "--max_memory_gb", "0.01")
    assert code == 2
    assert "choose a smaller --model" in err
    assert "Any of these" not in err


def test_a_found_rate_trains_as_the_same_rate_given_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["rows.jsonl", *TOY, "--batch_size", "4", "--max_steps", "6", "--peft.dropout", "0.1"]
    reported(capsys, "tune", *short, "--find_lr", "--find_batch_size", "--run_dir", "found")
    rate = json.loads(Path("found/learning_rate.json").read_text(encoding="utf-8"))["suggestion"]
    for given, folder in ((rate, "by-hand"), (rate * 1.1, "control")):
        reported(capsys, "tune", *short, "--learning_rate", repr(given), "--run_dir", folder)
    found, by_hand, control = (sha256(Path(f) / ADAPTER) for f in ("found", "by-hand", "control"))
    assert found == by_hand != control
    lines = Path("found/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert max(json.loads(line)["learning_rate"] for line in lines) == pytest.approx(rate)


def test_a_resumed_run_keeps_the_rate_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["tune", "rows.jsonl", *TOY, "--batch_size", "4", "--max_steps", "2", "--find_lr", "--run_dir", "r"]
    reported(capsys, *flags)
    record = Path("r/learning_rate.json")
    before = record.stat().st_mtime_ns, sha256(Path("r") / ADAPTER)
    assert "learning rate" not in run(capsys, *flags)[2]
    assert (record.stat().st_mtime_ns, sha256(Path("r") / ADAPTER)) == before


def test_the_picture_stands_alone(capsys: pytest.CaptureFixture[str]) -> None:
    reported(capsys, "tune", "rows.jsonl", *TOY, "--max_steps", "1", "--find_lr", "--run_dir", "r")
    test = json.loads(Path("r/learning_rate.json").read_text(encoding="utf-8"))
    page = Path("r/learning_rate.html").read_text(encoding="utf-8")
    assert f"{test['suggestion']:g}" in page
    assert "<polyline" in page
    assert not re.search(r"https?://|<script|src=|url\(", page)
    assert "nan" not in page.partition("<body>")[2]
    assert page.count("<svg") == page.count("</svg>") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune", "rows.jsonl", "--find_lr", "--learning_rate", "1e-3"], "exclude each other"),
        (["plan", "tune", "rows.jsonl", "--find_lr"], "find_lr changes what is planned"),
        (["plan", "tune", "rows.jsonl", "--find_batch_size"], "find_batch_size changes what is planned"),
        (["plan", "tune"], "plan tune needs DATA"),
        (["plan", "tune", "rows.jsonl", "--epoch", "2"], "plan tune has no flag --epoch"),
    ],
)
def test_contradictions_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, *words)
    assert code == 2
    assert message in err


def test_plan_and_plan_ladder_are_the_same_and_help_names_both(capsys: pytest.CaptureFixture[str]) -> None:
    plain = run(capsys, "plan", "--help")[1]
    assert "tunesmith plan tune --help" in plain
    assert run(capsys, "plan", "ladder", "--help")[1].splitlines()[-1] == plain.splitlines()[-1]
    assert "Usage: tunesmith plan tune DATA" in run(capsys, "plan", "tune", "--help")[1]
