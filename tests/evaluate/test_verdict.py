"""The headline says what the measurements say, and something else when they change."""

from __future__ import annotations

from dataclasses import replace

import pytest
from report_inputs import MOVIES, difference, movies, swapped

from tunesmith.core.errors import UserError
from tunesmith.evaluate import verdict as verdicts
from tunesmith.evaluate.results import Forgetting, RouteResult
from tunesmith.evaluate.verdict import CLEAR, INSUFFICIENT, cost, is_reference, judge
from tunesmith.stats.compare import Comparison, Difference

BY_ROUTE = {r.route: r for r in movies(60).results}


def route(name: str, value: float, n: int = 1000, **changes: object) -> RouteResult:
    return replace(BY_ROUTE[name], value=value, low=value - 0.02, high=value + 0.02, draws=[value], n=n, **changes)


def compared(*differences: Difference) -> Comparison:
    return Comparison({}, differences, 0.95, 1000)


def test_the_issue_sentence_lora_beats_prompts_and_full_adds_nothing() -> None:
    results = [route("few-shot k=6", 0.77), route("lora r=16", 0.88), route("full", 0.884)]
    tested = compared(
        difference("lora r=16", "few-shot k=6", 0.11, 0.03),
        difference("full", "few-shot k=6", 0.114, 0.03),
        difference("full", "lora r=16", 0.004, 0.014),
    )
    judged = judge(results, tested)
    assert judged.sentence == (
        "Ship lora r=16: it beats few-shot k=6 by 0.11 [0.08, 0.14] (McNemar, p < 0.001 after Holm); full is not better than "
        "lora r=16: 0.004 [-0.010, 0.018] includes 0; lora r=16 lost 0.03 accuracy on sibling tasks."
    )
    assert (judged.recommended, judged.evidence, judged.best) == ("lora r=16", CLEAR, "full")


def test_a_better_full_route_is_recommended_instead() -> None:
    """Negative control of the case above: the same values, but full is significantly better than LoRA."""
    results = [route("few-shot k=6", 0.77), route("lora r=16", 0.88), route("full", 0.884)]
    tested = compared(
        difference("lora r=16", "few-shot k=6", 0.11, 0.03),
        difference("full", "few-shot k=6", 0.114, 0.03),
        difference("full", "lora r=16", 0.004, 0.002),
    )
    judged = judge(results, tested)
    assert judged.recommended == "full"
    assert "beats lora r=16, the best cheaper route, by 0.004 [0.002, 0.006]" in judged.sentence
    assert "full lost 0.07 accuracy on sibling tasks" in judged.sentence


def test_swapping_what_two_routes_answered_moves_the_recommendation() -> None:
    report = movies()
    assert report.verdict.recommended == "lora r=16"
    other = swapped(report, "lora r=16", "zero-shot")
    assert other.verdict.recommended == "zero-shot"
    assert "full" not in other.verdict.sentence.split(";")[0]


def test_stored_direction_of_a_pair_does_not_matter() -> None:
    report = movies()
    turned = [
        replace(d, a=d.b, b=d.a, value=-d.value, low=-d.high, high=-d.low, only_a=d.only_b, only_b=d.only_a, verdict=flip)
        for d in report.comparison.differences
        for flip in [{"better": "worse", "worse": "better"}.get(d.verdict, d.verdict)]
    ]
    assert judge(report.results, replace(report.comparison, differences=tuple(turned))) == report.verdict
    wrong = [
        replace(d, verdict={"better": "worse", "worse": "better"}.get(d.verdict, d.verdict))
        for d in report.comparison.differences
    ]
    assert judge(report.results, replace(report.comparison, differences=tuple(wrong))) != report.verdict


@pytest.mark.parametrize(
    ("half", "evidence", "recommended"), [(0.01, CLEAR, "MiniLM + logistic regression"), (0.06, INSUFFICIENT, None)]
)
def test_a_baseline_as_good_as_the_model_means_no_language_model(half: float, evidence: str, recommended: str | None) -> None:
    """A narrow interval settles it; the same difference with a wide one settles nothing."""
    results = [route("MiniLM + logistic regression", 0.88), route("lora r=16", 0.882)]
    judged = judge(results, compared(difference("lora r=16", "MiniLM + logistic regression", 0.002, half, rows=2318)))
    assert (judged.evidence, judged.recommended) == (evidence, recommended)
    if evidence == CLEAR:
        assert judged.sentence.startswith(
            "No language model is needed: MiniLM + logistic regression reaches accuracy 0.880 [0.860, 0.900]"
        )
        assert "lora r=16 is not better than MiniLM + logistic regression: 0.002 [-0.008, 0.012] includes 0" in judged.sentence
    else:
        assert "language model is needed" not in judged.sentence
        assert "about 2,300 rows would settle it" in judged.sentence
        assert judged.rows_to_settle == 2318


def test_a_baseline_that_is_better_says_so() -> None:
    results = [route("MiniLM + logistic regression", 0.9), route("zero-shot", 0.77)]
    judged = judge(results, compared(difference("zero-shot", "MiniLM + logistic regression", -0.13, 0.03)))
    assert judged.recommended == "MiniLM + logistic regression"
    assert "zero-shot costs more and is worse: -0.13 [-0.16, -0.10]" in judged.sentence


def test_training_is_not_called_worth_it_when_its_lead_is_open() -> None:
    """Apart from the majority class, but not from the prompt: the cheaper one is named, and the evidence called what it is."""
    results = [route("majority", 0.5, n=400), route("zero-shot", 0.85, n=400), route("lora r=16", 0.88, n=400)]
    tested = compared(
        difference("zero-shot", "majority", 0.35, 0.05, 400),
        difference("lora r=16", "majority", 0.38, 0.05, 400),
        difference("lora r=16", "zero-shot", 0.03, 0.04, 400, rows=912),
    )
    judged = judge(results, tested)
    assert (judged.recommended, judged.evidence, judged.rows_to_settle) == ("zero-shot", INSUFFICIENT, 912)
    assert judged.sentence == (
        "Insufficient evidence that lora r=16 is worth its cost. lora r=16 against zero-shot: 0.03 [-0.01, 0.07], "
        "which includes 0 on 400 items; about 910 rows would settle it. "
        "Until then zero-shot is the cheapest route not shown to be worse."
    )


def test_nothing_can_be_told_apart() -> None:
    rows = tuple(r for r in MOVIES if r[0] in ("zero-shot", "calibrated", "lora r=16"))
    report = movies(12, rows)
    assert (report.verdict.recommended, report.verdict.evidence) == (None, INSUFFICIENT)
    assert report.verdict.sentence.startswith("Insufficient evidence to tell any of the 3 routes apart from the best.")
    assert movies(1000, rows).verdict.evidence == CLEAR


def test_an_exact_tie_ships_the_cheaper_or_names_no_number_of_rows() -> None:
    results = [route("lora r=16", 0.8), route("zero-shot", 0.8)]
    narrow = judge(results, compared(difference("lora r=16", "zero-shot", 0.0, 0.01)))
    assert (narrow.recommended, narrow.evidence, narrow.best) == ("zero-shot", CLEAR, "zero-shot")
    assert narrow.sentence.startswith("Ship zero-shot: it is the cheapest route and reaches accuracy 0.800 [0.780, 0.820]")
    wide = judge(results, compared(difference("lora r=16", "zero-shot", 0.0, 0.1)))
    assert (wide.recommended, wide.evidence, wide.rows_to_settle) == (None, INSUFFICIENT, None)
    assert "too small for any number of rows" in wide.sentence


@pytest.mark.parametrize(("half", "evidence"), [(0.015, CLEAR), (0.08, INSUFFICIENT)])
def test_all_routes_at_chance(half: float, evidence: str) -> None:
    results = [route("majority", 0.5), route("zero-shot", 0.503), route("lora r=16", 0.498)]
    tested = compared(
        difference("zero-shot", "majority", 0.003, half),
        difference("lora r=16", "majority", -0.002, half),
        difference("zero-shot", "lora r=16", 0.005, half),
    )
    judged = judge(results, tested)
    assert (judged.recommended, judged.evidence) == (None, evidence)
    assert "learned the task" in judged.sentence
    assert "No language model is needed" not in judged.sentence


def test_a_baseline_that_leads_the_majority_keeps_the_question_open() -> None:
    """0.40 [0.20, 0.60] is not nothing, though 20 items and Holm's correction do not make it significant."""
    results = [route("majority", 0.0, n=20), route("TF-IDF + logistic regression", 0.4, n=20), route("zero-shot", 0.0, n=20)]
    lead = difference("TF-IDF + logistic regression", "majority", 0.4, 0.2, 20, verdict=INSUFFICIENT, rows=26)
    tested = compared(
        lead,
        difference("zero-shot", "majority", 0.0, 0.1, 20),
        difference("TF-IDF + logistic regression", "zero-shot", 0.4, 0.1, 20),
    )
    judged = judge(results, tested)
    assert (judged.recommended, judged.evidence, judged.rows_to_settle) == (None, INSUFFICIENT, 26)
    assert judged.sentence.startswith("Insufficient evidence that any route has learned the task. TF-IDF")
    assert "includes 0" not in judged.sentence


def test_a_route_that_answers_nothing_right_is_not_shipped() -> None:
    results = [route("zero-shot", 0.0), route("lora r=16", 0.0)]
    judged = judge(results, compared(difference("lora r=16", "zero-shot", 0.0, 0.0)))
    assert (judged.recommended, judged.evidence) == (None, CLEAR)
    assert judged.sentence == "No route has learned the task: not one answer to 1,000 items is right (accuracy 0)."
    some = judge([route("zero-shot", 0.01), route("lora r=16", 0.01)], compared(difference("lora r=16", "zero-shot", 0.0, 0.0)))
    assert some.recommended == "zero-shot"


def test_routes_that_go_astray_share_a_sentence() -> None:
    results = [route("zero-shot", 0.7, valid=0.5), route("lora r=16", 0.9, valid=0.2), route("full", 0.9, valid=0.95)]
    tested = compared(
        difference("lora r=16", "zero-shot", 0.2, 0.01),
        difference("full", "zero-shot", 0.2, 0.01),
        difference("full", "lora r=16", 0.0, 0.01),
    )
    said = [line for line in judge(results, tested).details if line.startswith("Left to itself")]
    assert said == [
        "Left to itself, the model would begin with an allowed answer for only 50 % (zero-shot), 20 % (lora r=16) of the items."
    ]


def test_one_route_or_none_is_no_comparison() -> None:
    alone = judge([route("zero-shot", 0.77), route("one human", 0.96)], compared())
    assert (alone.recommended, alone.evidence, alone.best) == (None, INSUFFICIENT, "zero-shot")
    assert (
        alone.sentence
        == "Only zero-shot was climbed: accuracy 0.770 [0.750, 0.790] on 1,000 items. There is nothing to compare it with yet."
    )
    assert judge([], compared()).sentence == "No route was climbed, so there is nothing to recommend."


def test_the_human_is_a_line_and_never_a_candidate() -> None:
    report = movies()
    human = next(r for r in report.results if r.route == "one human")
    assert is_reference(human)
    assert human.value == max(r.value for r in report.results)
    assert "human" not in report.verdict.sentence
    assert any(line.startswith("one human reaches accuracy 0.97") for line in report.verdict.details)
    assert judge([r for r in report.results if r is not human], report.comparison).recommended == report.verdict.recommended


@pytest.mark.parametrize(
    ("forgetting", "said"),
    [
        (None, "what lora r=16 forgot was not measured"),
        (Forgetting("wiki", 18.0, 19.25), "perplexity on wiki went from 18.0 to 19.2"),
        (
            Forgetting("wiki", 18.0, 19.0, {"tweets": {"before": 0.7, "after": 0.701, "n": 9}}),
            "lora r=16 kept its accuracy on the sibling task",
        ),
        (
            Forgetting("wiki", 18.0, 19.0, {"tweets": {"before": 0.7, "after": 0.74, "n": 9}}),
            "lora r=16 gained 0.04 accuracy on the sibling",
        ),
    ],
)
def test_forgetting_in_the_headline(forgetting: Forgetting | None, said: str) -> None:
    results = [route("zero-shot", 0.77), route("lora r=16", 0.88, forgetting=forgetting)]
    assert said in judge(results, compared(difference("lora r=16", "zero-shot", 0.11, 0.03))).sentence


@pytest.mark.parametrize(
    ("lora", "full", "said"),
    [
        (20.0, 18.2, "costs more and forgot less: of wiki it lost 0.011 nats a token, lora r=16 0.105"),
        (20.0, 17.9, "of wiki it lost nothing, lora r=16 0.105"),
        (20.0, 19.0, ""),  # 0.105 and 0.054: not half
        (18.1, 18.0, ""),  # 0.006: nobody's reason
        (18.2, 20.0, ""),
    ],
)
def test_a_level_route_that_forgot_far_less_is_named(lora: float, full: float, said: str) -> None:
    after = {"lora r=16": lora, "full": full}
    results = [route("zero-shot", 0.77)]
    results += [route(name, 0.88, forgetting=Forgetting("wiki", 18.0, perplexity)) for name, perplexity in after.items()]
    level = difference("full", "lora r=16", 0.0, 0.01)
    ahead = [difference(name, "zero-shot", 0.11, 0.03) for name in after]
    judged = judge(results, compared(level, *ahead))
    assert judged.recommended == "lora r=16"
    milder = [line for line in judged.details if "forgot less" in line]
    assert milder == [line for line in judged.details if said and said in line]
    assert bool(said) == bool(milder)
    # A route that is worse is no answer to forgetting.
    results = [results[0], results[1], replace(results[2], value=0.77)]
    worse = compared(difference("lora r=16", "full", 0.11, 0.03), *ahead)
    assert not any("forgot less" in line for line in judge(results, worse).details)


def test_cost_order_and_a_cost_of_ones_own() -> None:
    ladder = [r.route for r in sorted(BY_ROUTE.values(), key=cost) if not is_reference(r)]
    assert ladder == [
        "majority", "VADER lexicon", "MiniLM + logistic regression", "TF-IDF + logistic regression",
        "zero-shot", "calibrated", "few-shot k=6", "few-shot-nearest k=6", "lora r=16", "full",
    ]  # fmt: skip
    results = [route("lora r=16", 0.88), route("full", 0.88)]
    tested = compared(difference("lora r=16", "full", 0.0, 0.01))
    assert judge(results, tested).recommended == "lora r=16"
    assert judge(results, tested, cost_of=lambda r: (-r.trained_parameters,)).recommended == "full"


def test_a_pair_that_was_never_compared_is_refused() -> None:
    with pytest.raises(UserError, match="'lora r=16' and 'zero-shot' were never compared"):
        judge([route("zero-shot", 0.7), route("lora r=16", 0.8)], compared())


def test_the_module_states_its_rule() -> None:
    assert "cheapest" in (verdicts.__doc__ or "")
    assert "MARGIN" in (verdicts.__doc__ or "")
