"""What a model wrote on the way to its answer is kept with the answer, and shown beside it."""

from __future__ import annotations

import html
from dataclasses import replace
from pathlib import Path

from report_inputs import movies

from tunesmith.evaluate.report import items
from tunesmith.evaluate.report.page import write_html
from tunesmith.evaluate.results import load, save

SAID = "It praises <b>every</b> actor.\nTherefore, among negative and positive, the answer is positive"


def test_reasons_are_shown_with_the_sample_and_as_text() -> None:
    report = movies(40)
    route = "zero-shot"
    answers = [replace(p, rationale=SAID) for p in report.predictions[route]]
    with_reasons = replace(report, predictions={**report.predictions, route: answers})
    shown = dict(items.samples(with_reasons))
    assert [s.rationale for s in shown[route]] == [SAID, SAID]
    assert {s.rationale for name, of in shown.items() if name != route for s in of} == {""}
    written = write_html(with_reasons)
    assert html.escape(SAID) in written
    assert SAID not in written
    assert "before the answer was read from it" in written
    assert "before the answer was read from it" not in write_html(report)


def test_reasons_come_back_from_the_disk(tmp_path: Path) -> None:
    report = movies(10)
    result = next(r for r in report.results if r.route == "zero-shot")
    answers = [replace(p, rationale=SAID) for p in report.predictions["zero-shot"]]
    save(tmp_path, result, answers)
    assert load(tmp_path)[1] == answers
    # What was written before there were reasons is read as it was meant.
    file = tmp_path / "predictions.jsonl"
    old = [line.partition(', "rationale"')[0] + ', "correct": true}' for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("\n".join(old) + "\n", encoding="utf-8")
    assert [p.rationale for p in load(tmp_path)[1]] == [""] * 10
