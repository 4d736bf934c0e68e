"""Typed decisions: which question, what is answered, when it is not, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from tunesmith.core.errors import UserError
from tunesmith.evaluate.abstention import area, guaranteed_threshold, risk_coverage, rows_needed
from tunesmith.evaluate.decision import NEVER, Decider, Question, question_of, uncalibrated

LABELS = ["negative", "positive"]


def rows(n: int = 60) -> tuple[list[dict[str, float]], list[str]]:
    """Scores with a gap of 2, right three times in four."""
    return [{"negative": 0.0, "positive": 2.0}] * n, ["positive", "positive", "positive", "negative"] * (n // 4)


@pytest.mark.parametrize(
    ("labels", "kind", "expected"),
    [
        (LABELS, "auto", Question("choice", ("negative", "positive"))),
        (["No", "Yes"], "auto", Question("yes_no", ("Yes", "No"))),
        (["true", "false"], "auto", Question("yes_no", ("true", "false"))),
        (["10", "2", "-1.5"], "auto", Question("score", ("-1.5", "2", "10"))),
        (["0", "1"], "auto", Question("score", ("0", "1"))),
        (["0", "1"], "yes_no", Question("yes_no", ("1", "0"))),
        (["2", "1"], "choice", Question("choice", ("2", "1"))),
    ],
)
def test_labels_say_what_is_asked(labels: list[str], kind, expected: Question) -> None:
    assert question_of(labels, kind) == expected


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (LABELS, "score", "the option 'negative' is no number"),
        (["1", "nan"], "score", "the option 'nan' is no number"),
        (LABELS, "yes_no", "'negative, positive' do not answer a yes/no question"),
        (["one"], "auto", "two or more different options"),
        (["a", "a"], "auto", "two or more different options"),
    ],
)
def test_labels_that_cannot_answer_are_refused(labels: list[str], kind, message: str) -> None:
    with pytest.raises(UserError, match=message):
        question_of(labels, kind)


def test_a_decision_has_the_probability_that_held_out_rows_had() -> None:
    decider = Decider.fit(question_of(LABELS), *rows())
    decision = decider.decide({"negative": -7.0, "positive": -5.0})
    assert decision.answer == "positive"
    assert decision.probabilities == pytest.approx({"negative": 0.25, "positive": 0.75})
    assert uncalibrated(decider.question, rows()[0])[0, 1] == pytest.approx(1 / (1 + np.exp(-2)))
    assert decider.decide({"negative": -5.0, "positive": -7.0}).answer == "negative"


def test_below_the_threshold_there_is_no_answer_and_still_probabilities() -> None:
    decider = Decider.fit(question_of(LABELS), *rows())
    scores = {"negative": 0.0, "positive": 2.0}
    assert decider.abstaining(0.7).decide(scores).answer == "positive"
    silent = decider.abstaining(0.8).decide(scores)
    assert (silent.answer, silent.confidence) == (None, pytest.approx(0.75))
    assert decider.abstaining(NEVER).decide({"negative": 0.0, "positive": 1e6}).answer is None


def test_a_score_has_an_expected_number_and_yes_no_the_probability_of_yes() -> None:
    even = {"temperature": 1.0}
    score = Decider(question_of(["1", "2", "5"]), "temperature", even)
    assert score.decide(dict(zip("125", np.log([0.5, 0.3, 0.2]), strict=True))).value == pytest.approx(0.5 + 0.6 + 1.0)
    yes_no = Decider(question_of(["no", "yes"]), "temperature", even)
    assert yes_no.decide({"no": np.log(0.9), "yes": np.log(0.1)}).value == pytest.approx(0.1)
    assert yes_no.decide({"no": np.log(0.9), "yes": np.log(0.1)}).answer == "no"


@pytest.mark.parametrize("calibration", ["temperature", "platt", "isotonic"])
def test_a_saved_decider_decides_the_same(calibration: str, tmp_path: Path) -> None:
    decider = Decider.fit(question_of(LABELS), *rows(), calibration).abstaining(0.3, note="é")
    decider.save(tmp_path)
    again = Decider.load(tmp_path)
    assert again == decider
    assert again.decide({"negative": 0.3, "positive": 0.9}) == decider.decide({"negative": 0.3, "positive": 0.9})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "its format is unknown"),
        ({"calibration": "magic"}, "unknown calibrator 'magic'"),
        ({"state": {}}, "decider.json cannot be read"),
        ({"state": {"temperature": "hot"}}, "decider.json cannot be read"),
        ({"question": {"kind": "choice", "options": ["a"]}}, "two or more different options"),
        ({"surprise": 1}, "decider.json cannot be read"),
    ],
)
def test_a_file_that_is_not_as_written_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    Decider.fit(question_of(LABELS), *rows()).save(tmp_path)
    path = tmp_path / "decider.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        Decider.load(tmp_path)


def test_a_folder_without_a_decider_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no decider"):
        Decider.load(tmp_path)


@pytest.mark.parametrize(
    ("scores", "gold", "message"),
    [
        (rows(28)[0], rows(28)[1], "at least 30 held-out rows, and there are 28"),
        (rows()[0], ["positive"] * 60, "all 60 held-out rows have the answer 'positive'"),
        (rows()[0], ["neutral"] * 60, "row 1 has the answer 'neutral'"),
        ([{"negative": 0.0}] * 60, rows()[1], "row 1 has no finite score for the option 'positive'"),
        ([{"negative": 0.0, "positive": float("inf")}] * 60, rows()[1], "no finite score"),
        (rows(64)[0], rows()[1], "64 rows of scores and 60 right answers"),
    ],
)
def test_rows_that_cannot_calibrate_are_refused(scores: list, gold: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Decider.fit(question_of(LABELS), scores, gold)


def test_risk_falls_with_coverage_as_counted_by_hand() -> None:
    confidence, correct = np.array([0.9, 0.8, 0.8, 0.6]), np.array([True, False, True, False])
    coverage, risk = risk_coverage(confidence, correct)
    assert coverage == pytest.approx([0.25, 0.75, 1.0])  # the two at .8 enter together
    assert risk == pytest.approx([0.0, 1 / 3, 0.5])
    assert area(coverage, risk) == pytest.approx(0.5 * (1 / 3) + 0.25 * 0.5)


def test_a_threshold_answers_as_much_as_it_can_show() -> None:
    # 200 sure rows are all right, 200 others half: .95 can be shown for the first half and for no larger share.
    confidence = np.concatenate([np.linspace(0.9, 0.99, 200), np.linspace(0.5, 0.6, 200)])
    correct = np.array([True] * 200 + [True, False] * 100)
    found = guaranteed_threshold(confidence, correct, 0.95)
    assert (found.answered, found.right, found.rows) == (200, 200, 400)
    assert 0.6 < found.abstain_below < 0.9 + 1e-9
    assert found.bound == pytest.approx(0.005 ** (1 / 200))
    assert guaranteed_threshold(confidence, correct, 0.6).abstain_below == 0
    assert guaranteed_threshold(confidence, ~correct, 0.6).abstain_below == NEVER
    assert guaranteed_threshold(confidence[:90], correct[:90], 0.95).abstain_below == NEVER
    assert rows_needed(0.95) == 104  # .95^103 > .005 >= .95^104


def sure(generator: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of confidence c in .5..1 that are right with probability c^1.5: overconfident, so nothing is calibrated."""
    confidence = generator.uniform(0.5, 1.0, n)
    return confidence, generator.random(n) < confidence**1.5


def accuracy_from(below: float) -> float:
    """E[c^1.5 | c >= below], by its integral."""
    low = max(below, 0.5)
    return (1 - low**2.5) / (2.5 * (1 - low)) if low < 1 else 1.0


def test_the_guarantee_holds_as_often_as_it_says() -> None:
    generator, target, error = np.random.default_rng(11), 0.75, 0.2
    found = [guaranteed_threshold(*sure(generator, 300), target, error) for _ in range(400)]
    given = [f for f in found if f.abstain_below != NEVER]
    broken = sum(accuracy_from(f.abstain_below) < target for f in given)
    assert len(given) > 300
    assert broken <= error * len(found)
    # Negative control: taking the threshold that merely looked good enough on the rows breaks the promise far more often.
    naive = 0
    for _ in range(400):
        confidence, correct = sure(generator, 300)
        coverage, risk = risk_coverage(confidence, correct)
        fits = np.flatnonzero(1 - risk >= target)
        below = np.sort(confidence)[::-1][round(coverage[fits[-1]] * 300) - 1] if len(fits) else 1.0
        naive += accuracy_from(below) < target
    assert naive > 2 * error * 400
