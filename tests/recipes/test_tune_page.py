"""`tunesmith tune` leaves a report.html, however it ends."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith import cli
from tunesmith.core.files import verify_manifest
from tunesmith.core.runs import Run

FAST = ["--model", "toy-llama", "--threads", "1", "--batch_size", "4", "--max_steps", "8", "--peft.rank", "2", "--guard", "false"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder that has a file of rows, under a name that is HTML."""
    monkeypatch.chdir(tmp_path)
    turns = [
        {"messages": [{"role": "user", "content": f"<b>{i}</b>"}, {"role": "assistant", "content": f"{i}!"}]} for i in range(40)
    ]
    Path("<i>rows&.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turns), encoding="utf-8")


def tune(*words: str) -> int:
    """Run `tunesmith tune` on the file."""
    threads = torch.get_num_threads()
    try:
        return cli.main(["tune", "<i>rows&.jsonl", *FAST, "--run_dir", "run", *words])
    finally:
        torch.set_num_threads(threads)


def page() -> str:
    return Path("run/report.html").read_text(encoding="utf-8")


def test_a_finished_run_has_its_page_and_its_manifest_knows_it() -> None:
    assert tune() == 0
    assert "&lt;i&gt;rows&amp;.jsonl" in page()
    assert "<i>rows" not in page()
    assert "<b>0</b>" not in page()
    assert "&lt;b&gt;" in page()
    assert "8 steps took the loss from" in page()
    assert json.loads(Path("run/run.json").read_text())["versions"]["torch"] in page()
    assert "report.html" in json.loads(Path("run/MANIFEST.json").read_text())["files"]
    assert verify_manifest(Path("run")) == ""


def stopping(monkeypatch: pytest.MonkeyPatch, act: Any) -> None:
    """Do something when step 3 has been logged."""
    real = Run.log

    def log(self: Run, values: dict[str, Any]) -> None:
        real(self, values)
        if values["step"] == 3:
            act()

    monkeypatch.setattr(Run, "log", log)


def test_a_stopped_run_has_its_page_until_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stopping(patch, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert tune() == 143
    assert "Stopped after step 3; everything is saved" in page()
    assert "Stopped before its end" in page()
    assert "The same command continues from the newest checkpoint." in page()
    assert tune() == 0
    assert "Stopped before its end" not in page()
    assert "8 steps took the loss from" in page()


def test_a_second_signal_leaves_a_page_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    stopping(monkeypatch, twice)
    assert tune() == 143
    assert "Stopped at once, in the middle of a step" in page()


def test_a_failed_run_has_its_page_with_the_rows_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tune("--learning_rate", "1e38", "--clip_norm", "0", "--weight_decay", "0", "--warmup", "0") == 1
    assert "Failed</p>" in page()
    assert "Lower" in page() or "lower" in page()
    assert "not finite" in page() or "is nan" in page() or "is inf" in page()


def test_an_error_that_nobody_foresaw_is_on_the_page_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("<u>of the machine</u>")

    stopping(monkeypatch, fail)
    assert tune() == 1
    assert "RuntimeError: &lt;u&gt;of the machine&lt;/u&gt;" in page()
    assert "Failed</p>" in page()


def test_a_page_that_cannot_be_written_hides_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        Path("run/report.html").mkdir()
        raise RuntimeError("the real trouble")

    stopping(monkeypatch, fail)
    assert tune() == 1
    error = capsys.readouterr().err
    assert "WARNING: report.html could not be written" in error
    assert "the real trouble" in error


def test_trackers_are_told_by_a_flag_and_can_change_between_lives() -> None:
    pytest.importorskip("tensorboard")
    assert tune("--report_to", "tensorboard") == 0
    assert len(list(Path("run/tensorboard").iterdir())) == 1
    assert tune() == 0  # other trackers are no other run
    assert tune("--report_to", "none") == 0
    assert cli.main(["tune", "<i>rows&.jsonl", *FAST, "--report_to", "wandb"]) == 2
