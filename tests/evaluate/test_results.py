"""Results on disk are what was measured, and only like is compared with like."""

import dataclasses
from pathlib import Path

import pytest

from tunesmith.core.errors import UserError
from tunesmith.evaluate.results import Forgetting, Prediction, RouteResult, check_comparable, load, save

PREDICTIONS = [
    Prediction(
        str(i), f"x:{i}", "ä\n", "prompt", "hash", {"a": -1.5, "b": -2.0}, "a", "ab"[i % 2], i != 1, draw, ("a#0-3", "b#4-9")[:i]
    )
    for draw in range(2)
    for i in range(3)
]


def result(**changes: object) -> RouteResult:
    """A finished route."""
    whole = RouteResult(
        "2-shot", "few-shot", "prompt", {"shots": 2}, "accuracy", 0.5, 0.4, 0.6, 3, [0.5, 0.5], {"accuracy": 0.5}, 1.0, 0,
        1.0, 2.0, 1.5, 30.0, 4.0, 3.0, 5.0, None, None, "items", "template", "scorer", ["a note"],
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("forgetting", [None, Forgetting("text", 8.0, 9.5, {"tweets": {"before": 0.9, "after": 0.8, "n": 100}})])
def test_what_is_saved_comes_back(tmp_path: Path, forgetting: Forgetting | None) -> None:
    before = result(forgetting=forgetting)
    save(tmp_path / "route", before, PREDICTIONS)
    assert load(tmp_path / "route") == (before, PREDICTIONS)
    assert [p.correct for p in PREDICTIONS] == [True, False, True] * 2


@pytest.mark.parametrize("name", ["result.json", "predictions.jsonl"])
@pytest.mark.parametrize("content", [None, "", "{", '{"id": 1}\n', "[]\n"])
def test_damaged_results_are_an_error_that_says_what_to_do(tmp_path: Path, name: str, content: str | None) -> None:
    save(tmp_path, result(), PREDICTIONS)
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=r"(?s)the finished route in .* cannot be read.*Delete that folder to climb it again"):
        load(tmp_path)


def test_results_of_other_items_metrics_templates_or_scorers_share_no_table() -> None:
    for name, word in (("items_hash", "items"), ("metric", "metrics"), ("template_hash", "templates"), ("scorer", "scorers")):
        with pytest.raises(UserError, match=f"'2-shot' and 'other' were run with different {word}"):
            check_comparable([result(), result(), result(route="other", **{name: "different"})])
    check_comparable([])
    check_comparable([result(), result(route="other")])


def test_baselines_have_no_prompt_but_the_same_items() -> None:
    check_comparable([result(), result(kind="baseline", template_hash="", scorer="")])
    with pytest.raises(UserError, match="different items"):
        check_comparable([result(), result(kind="baseline", items_hash="different")])
