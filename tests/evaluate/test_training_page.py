"""The page of a training: same bytes for the same run, everything on it, nothing escapes, nothing is loaded."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from test_report import ATTACK, Page, _environment, check_self_contained

from tunesmith.evaluate.report.curves import Measured, chart, series, short, smoothed
from tunesmith.evaluate.report.training import TrainingReport, write_training_html

STEPS = 60


def row(step: int) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    values = {
        "step": step, "epoch": step / 30, "loss": 2 / step + 0.5, "grad_norm": 3.0 / step,
        "learning_rate": 1e-3 * (1 - step / STEPS),
        "num_tokens": 100 * step, "tokens_per_second": 950.0 + step % 7, "step_time": 0.1,
        "peak_memory_gb": 0.5, "time": 1e9 + step,
    }  # fmt: skip
    return {**values, **({"eval_loss": 1 / step + 0.6} if step % 20 == 0 else {})}


DONE: dict[str, Any] = {
    "status": "done", "run_dir": "runs/tune-rows", "artefact": "runs/tune-rows/adapter", "seconds": 75.25, "wall_seconds": 80.5,
    "peak_memory_gb": 0.5, "tokens": 6000, "tokens_per_second": 987.6, "supervised_tokens": 2345, "trained_parameters": 4_884_480,
    "steps": 60, "final_loss": 0.5333, "validation": -(1 / 60 + 0.6), "warnings": ["3 rows longer than 64 tokens were dropped"],
}  # fmt: skip
REPORT = TrainingReport(
    data="rows.jsonl", method="lora", model="smollm2", outcome=DONE, rows=[row(i + 1) for i in range(STEPS)], clip_norm=1.0,
    samples=[("rows.jsonl:1", [("<|user|>hi<|end|>", False), ("hello<|end|>", True)])],
    command="tunesmith tune rows.jsonl --set epochs=2", provenance={"torch": "2.13", "seed": "0"},
)  # fmt: skip
PAGE = write_training_html(REPORT)


def test_same_run_same_bytes_in_another_process() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_training_page as t\nsys.stdout.buffer.write(t.PAGE.encode())"
    words = [sys.executable, "-c", code, str(__file__).rsplit("/", 1)[0]]
    pages = [subprocess.run(words, check=True, capture_output=True, env=_environment(seed)).stdout for seed in ("1", "2")]
    assert pages[0] == pages[1] == PAGE.encode()
    assert write_training_html(replace(REPORT, rows=[*REPORT.rows[:-1], {**row(STEPS), "loss": 0.6}])) != PAGE


def test_nothing_is_loaded_and_no_script_exists() -> None:
    check_self_contained(PAGE)
    assert "http" not in PAGE.replace("http-equiv", "")
    assert "url(" not in PAGE


def test_everything_is_there() -> None:
    page = Page(PAGE)
    assert [a["id"] for t, a in page.tags if t == "h2"] == ["curves", "numbers", "samples", "again"]
    headings = [part.split("<")[0].strip() for part in PAGE.split("<h3>")[1:]]
    assert headings == ["Loss", "Loss on held-out rows", "Gradient norm", "Learning rate", "Tokens per second", "Peak memory"]
    assert "60 steps took the loss from 2.500 to 0.533; the weights that were kept have loss 0.617 on held-out rows." in page.text
    for shown in ("4,884,480", "6,000", "2,345", "988", "1 min 15 s", "runs/tune-rows/adapter", "0.50 GB", *DONE["warnings"]):
        assert shown in page.text, shown
    assert "tunesmith tune rows.jsonl --set epochs=2" in page.text
    assert '<u class="counts">hello&lt;|end|&gt;</u>' in PAGE
    drawn = [a for t, a in page.tags if t == "polyline"]
    assert [a["class"] for a in drawn].count("curve raw") == 3  # loss, gradient norm, speed: each below its average
    targets = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["href"] for t, a in page.tags if t == "a"} <= {f"#{i}" for i in targets}
    labels = [a["aria-label"] or "" for _, a in page.tags if a.get("role") == "img"]
    assert len(labels) == 6
    assert labels[0] == (
        "Loss: 2.5 nats per counted token at step 1, 0.5333 nats per counted token at step 60, lowest 0.5333, highest 2.5."
    )
    assert PAGE.count('class="ring"') == 2  # the kept weights, in the two charts that have them


def test_every_text_from_data_is_escaped() -> None:
    outcome = {
        **DONE,
        "status": "failed",
        "error": ATTACK,
        "fix": ATTACK,
        "warnings": [ATTACK],
        "artefact": ATTACK,
        ATTACK: ATTACK,
    }
    rows = [{**row(1), ATTACK: ATTACK, "loss": ATTACK, "eval_loss": ATTACK}, *REPORT.rows[1:]]
    page = write_training_html(
        replace(
            REPORT,
            data=ATTACK,
            method=ATTACK,
            model=ATTACK,
            outcome=outcome,
            rows=rows,
            command=ATTACK,
            provenance={ATTACK: ATTACK},
            samples=[(ATTACK, [(ATTACK, False), (ATTACK, True)])],
        )
    )
    for tag in ("<script", "<img", "<svg onload"):
        assert tag not in page
    parsed = Page(page)
    assert not [a for _, a in parsed.tags for name in a if name.startswith("on")]
    assert parsed.text.count("<script>alert(1)</script>") >= 14
    odd = write_training_html(replace(REPORT, data="a\x1b[31mred\x00 \ud800 b"))
    odd.encode("utf-8")
    assert "\x1b" not in odd


@pytest.mark.parametrize("status", ["stopped", "failed"])
def test_a_run_that_did_not_end_says_what_happened(status: str) -> None:
    outcome = {
        "status": status,
        "error": "the loss of step 31 is nan. Rows: rows.jsonl:7",
        "fix": "Look at these rows.",
        "run_dir": "r",
    }
    page = write_training_html(replace(REPORT, outcome=outcome, rows=REPORT.rows[:30]))
    text = Page(page).text
    assert "The loss of step 31 is nan. Rows: rows.jsonl:7" in text
    assert "Look at these rows." in text
    assert ("Stopped before its end" in text, "Failed" in text) == (status == "stopped", status == "failed")
    assert "3,000" in text  # tokens so far
    assert 'class="ring"' not in page  # nothing was kept
    empty = Page(write_training_html(replace(REPORT, outcome=outcome, rows=[], samples=[])))
    assert "No step was finished" in empty.text
    assert not [t for t, _ in empty.tags if t == "polyline"]


@pytest.mark.parametrize("count", [1, 2, 19, 20])
def test_a_short_run_has_a_page(count: int) -> None:
    page = write_training_html(replace(REPORT, rows=REPORT.rows[:count]))
    assert ("moving average" in page) == (count >= 20)
    assert (page.count('<circle class="mark prompt" cx') == 5) == (count == 1)  # one step is a dot
    assert not [a for _, a in Page(page).tags if "nan" in (a.get("points") or "")]


def test_a_long_run_stays_small_and_loses_no_spike() -> None:
    rows = [{**row(i % 50 + 1), "step": i + 1} for i in range(100_000)]
    rows[54_321]["loss"] = 40.0
    page = write_training_html(replace(REPORT, rows=rows))
    assert len(page.encode()) < 200_000
    drawn = chart(Measured("Loss", "", series(rows, "loss"), noisy=True), (1, 100_000))
    corners = [tuple(map(float, corner.split(","))) for corner in drawn.raw.split()]
    assert len(corners) <= 800
    assert min(corners, key=lambda c: c[1])[0] == pytest.approx(54.32, abs=0.01)
    assert [x for x, _ in corners] == sorted(x for x, _ in corners)


def test_a_place_in_a_chart_is_the_value() -> None:
    drawn = chart(Measured("x", "", [(1, 0.0), (11, 4.0), (21, 1.0)]), (1, 21))
    assert drawn.raw == "0,100 50,0 100,75"
    assert [(t.at, t.text) for t in drawn.y_ticks] == [(100, "0"), (75, "1"), (50, "2"), (25, "3"), (0, "4")]
    ticks = chart(Measured("x", "", [(1, 0.01), (2, 10.0)], may_be_logarithmic=True), (1, 2)).y_ticks
    assert [t.text for t in ticks] == ["0.01", "0.1", "1", "10"]
    assert [b.at - a.at for a, b in pairwise(ticks)] == pytest.approx([ticks[1].at - ticks[0].at] * 3, abs=0.02)


def test_the_moving_average_is_one() -> None:
    assert smoothed([3.0] * 50, 10) == pytest.approx([3.0] * 50)  # no pull towards zero at the start
    # a = 2 / (3 + 1): the weights of 1, 2, 4 are 1/4, 1/2, 1, so (1/4 + 1 + 4) / (7/4) = 3.
    assert smoothed([1.0, 2.0, 4.0], 3)[-1] == pytest.approx(3.0)
    assert smoothed([4.0, 2.0, 1.0], 3)[-1] != pytest.approx(3.0)


def test_numbers_on_an_axis_are_short_and_the_odd_ones_left_out() -> None:
    assert [short(v) for v in (0, 3e-4, 5.25e-5, -0.25, 0.001, 12, 3400, 25_000, 1_200_000, 1e38)] == [
        "0", "3e-4", "5.25e-5", "-0.25", "0.001", "12", "3,400", "25k", "1.2M", "1e38",
    ]  # fmt: skip
    rows: list[dict[str, Any]] = [{"step": 1, "loss": math.nan}, {"loss": 1.0}, {"step": 2, "loss": True}, {"step": 3, "loss": 2}]
    assert series(rows, "loss") == [(3, 2.0)]
