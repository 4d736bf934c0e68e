"""Gain here against forgetting there: shares with intervals, the sentence, and when there is nothing to say."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from report_inputs import movies

from tunesmith.evaluate.report.page import write_html
from tunesmith.evaluate.report.terminal import table
from tunesmith.evaluate.results import Forgetting, Prediction
from tunesmith.evaluate.tradeoff import Tradeoff, weigh
from tunesmith.metrics import accuracy

PASSAGES, ITEMS = 24, 400


def change(rise: float, noise: float = 0.05) -> Forgetting:
    """Every passage loses about `rise` nats a token."""
    generator = np.random.default_rng(1)
    tokens = generator.integers(20, 60, PASSAGES).astype(float)
    before = 3.0 * tokens
    after = before + tokens * (rise + noise * rise * generator.normal(size=PASSAGES))
    ratio = np.exp([before.sum() / tokens.sum(), after.sum() / tokens.sum()])
    passages = {"tokens": list(tokens), "before": list(before), "after": list(after)}
    return Forgetting("general text", *map(float, ratio), {}, passages, {"before": [1.0, 1.0], "after": [1.0, 0.0]})


def climbed(shares: dict[str, tuple[float, float | None]]) -> tuple[list[Any], dict[str, list[Prediction]]]:
    """Routes by name -> (share of items right, nats lost or None)."""
    results, predictions = [], {}
    for name, (share, rise) in shares.items():
        results.append(SimpleNamespace(route=name, name=name, forgetting=None if rise is None else change(rise)))
        right = np.random.default_rng(7).permutation(ITEMS) < share * ITEMS
        predictions[name] = [Prediction(str(i), "", "", "", "", {}, "yes" if ok else "no", "yes") for i, ok in enumerate(right)]
    return results, predictions


def weighed(shares: dict[str, tuple[float, float | None]]) -> Tradeoff | None:
    results, predictions = climbed(shares)
    return weigh(results, predictions, accuracy.evaluate, seed=0)


def test_shares_of_gain_and_forgetting_are_worked_out_by_hand() -> None:
    found = weighed({"zero-shot": (0.6, None), "full": (0.8, 0.2), "half": (0.79, 0.04), "weak": (0.65, 0.01)})
    assert found
    by_route = {t.route: t for t in found.trades}
    half = by_route["half"]
    assert half.kept
    assert half.forgot
    assert half.kept.value == pytest.approx((0.79 - 0.6) / (0.8 - 0.6))
    tokens, before, after = (np.array(change(0.04).passages[key]) for key in ("tokens", "before", "after"))
    assert half.rise.value == pytest.approx((after - before).sum() / tokens.sum())
    assert half.forgot.value == pytest.approx(0.2, abs=0.02)
    for share in (half.kept, half.forgot, half.gain, half.rise):
        assert share.low < share.value < share.high
    assert (half.meets, by_route["weak"].meets, by_route["full"].meets) == (True, False, False)
    assert half.choices == -0.5
    assert found.sentence.startswith("full gains +0.200 [")
    assert "; half keeps 95 % [" in found.sentence
    assert found.as_dict()["trades"][1]["meets"] is True


def test_the_intervals_cover_what_they_should() -> None:
    # Paired by item: both routes have the same right items but ten, so the share is known far better than either gain.
    found = weighed({"zero-shot": (0.6, None), "full": (0.8, 0.2), "half": (0.79, 0.04)})
    assert found
    full, half = found.trades
    assert half.kept
    assert half.kept.high - half.kept.low < 0.15
    assert (full.gain.high - full.gain.low) / full.gain.value > 0.3


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"full": (0.8, 0.2), "a": (0.79, 0.19)}, "nothing keeps 90% of the gain with at most 25% of the forgetting"),
        ({"full": (0.6, 0.2), "a": (0.7, 0.1)}, "a gain that may be none, so there is nothing to keep."),
        ({"full": (0.8, -0.1), "a": (0.7, 0.1)}, "a loss that may be none, so there is nothing to cure."),
        ({"full": (0.8, 0.2), "a": (0.79, 0.01), "b": (0.81, 0.02)}, "b keeps 105 %"),
    ],
)
def test_the_sentence_says_no_more_than_is_known(shares: dict[str, tuple[float, float | None]], said: str) -> None:
    found = weighed({"zero-shot": (0.6, None), **shares})
    assert found
    assert said in found.sentence


@pytest.mark.parametrize("missing", ["zero-shot", "full", "half"])
def test_without_something_to_compare_nothing_is_said(missing: str) -> None:
    shares = {"zero-shot": (0.6, None), "full": (0.8, 0.2), "half": (0.79, 0.04)}
    assert weighed(shares) is not None
    assert weighed({name: share for name, share in shares.items() if name != missing}) is None


def test_page_and_terminal_show_the_trade() -> None:
    report = movies(200)
    tuned = [r for r in report.results if r.kind == "tuned"]
    results = [
        replace(r, name="full" if r is tuned[0] else r.name, forgetting=change(0.2 if r is tuned[0] else 0.03))
        if r.kind == "tuned" else r for r in report.results
    ]  # fmt: skip
    tradeoff = weigh(results, report.predictions, accuracy.evaluate, 0)
    assert tradeoff
    page = write_html(replace(report, results=results, tradeoff=tradeoff))
    assert "Gain against forgetting." in page
    assert "nats per token of general text that were lost" in page
    assert " ".join(table(replace(report, results=results, tradeoff=tradeoff)).split()).endswith(
        " ".join(tradeoff.sentence.split())
    )
    assert "Gain against forgetting." not in write_html(report)
