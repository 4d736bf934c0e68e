"""The ladder's prompting routes and baselines on a toy model, climbed as the ladder climbs them."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest
from tickets import climb_here, rows, write_rows, write_task

from tunesmith.core.encode import token_ids
from tunesmith.core.errors import UserError
from tunesmith.core.records import Example
from tunesmith.core.registry import BASELINES, ROUTES
from tunesmith.data.task import load_task
from tunesmith.models.toy import byte_tokenizer
from tunesmith.recipes._ladder.climb import by_draw


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_task(tmp_path_factory.mktemp("task"))


@pytest.fixture(scope="module")
def together(task: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Few-shot, then calibrated, in one ladder."""
    folder = tmp_path_factory.mktemp("together")
    return {route: climb_here(task, folder, route) for route in ("few-shot", "calibrated")}


def test_predictions_hold_the_exact_prompts(task: Path, together: dict) -> None:
    train = {e.fields["text"]: e.fields["label"] for e in load_task(str(task)).splits.train}
    tokenizer = byte_tokenizer()
    result, predictions = together["few-shot"]
    assert len(predictions) == result.n * 2 == 24
    for p in predictions:
        *shown, last = p.prompt.split("\n\n")
        assert last == f"Ticket: {p.text}\nTipo:"
        assert len(shown) == 2
        for demonstration in shown:
            text, _, label = demonstration.removeprefix("Ticket: ").partition("\nTipo: ")
            assert train[text] == label
        ids = token_ids(tokenizer, p.prompt)
        assert p.prompt_hash == hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()


def test_every_route_shows_the_same_draws(together: dict) -> None:
    prompts = {name: [(p.draw, p.prompt) for p in predictions] for name, (_, predictions) in together.items()}
    assert prompts["few-shot"] == prompts["calibrated"]
    draws = [{p.prompt.rpartition("\n\n")[0] for p in draw} for draw in by_draw(together["few-shot"][1])]
    assert [len(shown) for shown in draws] == [1, 1]
    assert draws[0] != draws[1]


def test_calibrated_is_the_same_whether_scores_are_shared_or_asked_anew(task: Path, together: dict, tmp_path: Path) -> None:
    shared, alone = together["calibrated"], climb_here(task, tmp_path, "calibrated")
    assert "scores shared with 2-shot" in shared[0].notes[0]
    assert not [note for note in alone[0].notes if "shared" in note]
    assert alone[0].draws == shared[0].draws
    for one, other in zip(shared[1], alone[1], strict=True):
        assert (one.predicted, one.prompt_hash, one.draw, one.gold) == (
            other.predicted,
            other.prompt_hash,
            other.draw,
            other.gold,
        )
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
    few = together["few-shot"][1]
    assert any(a.scores != pytest.approx(b.scores, abs=1e-3) for a, b in zip(shared[1], few, strict=True))


def test_scores_of_other_draws_are_not_shared(task: Path, tmp_path: Path) -> None:
    climb_here(task, tmp_path, "few-shot")
    result, predictions = climb_here(task, tmp_path, "calibrated", draws=3)
    assert not [note for note in result.notes if "shared" in note]
    assert len(by_draw(predictions)) == len(result.draws) == 3


def test_nearest_demonstrations_are_chosen_for_each_item(tmp_path: Path) -> None:
    pool = rows(12, 1)
    (tmp_path / "t").mkdir()
    write_rows(tmp_path / "t" / "train.jsonl", pool)
    write_rows(
        tmp_path / "t" / "test.jsonl", [{**row, "text": row["text"].replace("Hola", "hola")[:-1] + "!"} for row in pool[:4]]
    )
    yaml = tmp_path / "t" / "t.yaml"
    head = "name: t\ndata: {train: train.jsonl, validation: test.jsonl, test: test.jsonl}\n"
    yaml.write_text(f"{head}template: '{{text}} = {{answer}}'\nchoices: labels\n", encoding="utf-8")
    result, predictions = climb_here(yaml, tmp_path / "run", "few-shot-nearest:shots=1")
    assert result.route == "1-shot nearest"
    for p in predictions:
        shown = p.prompt.split("\n\n")[0].partition(" = ")[0]
        assert shown == p.text.replace("hola", "Hola")[:-1] + "."


@pytest.mark.parametrize(
    ("route", "label"),
    [
        ("zero-shot", "zero-shot"),
        ("few-shot:shots=8", "8-shot"),
        ("few-shot:choice=random", "4-shot random"),
        ("calibrated:choice=random", "4-shot random calibrated"),
        ("few-shot-nearest", "4-shot nearest"),
        ("lora", "LoRA r=16"),
        ("lora:rank=4,alpha=8", "LoRA r=4 alpha=8"),
        ("lora:targets=attention,dropout=0.1", "LoRA r=16 dropout=0.1 targets=attention"),
        ({"name": "lora", "targets": ["q_proj", "v_proj"]}, "LoRA r=16 targets=q_proj+v_proj"),
        ("full", "full"),
    ],
)
def test_rows_that_differ_are_called_differently(route: str | dict, label: str) -> None:
    entry, parameters = ROUTES.parameters(route)
    assert entry.label(parameters) == label


@pytest.mark.parametrize(
    "route", ["few-shot:choice=nearest", "few-shot:shots=0", "calibrated:draws=0", "lora:rnk=4", "zero-shot:shots=1"]
)
def test_a_parameter_that_makes_no_sense_is_refused(route: str) -> None:
    with pytest.raises(UserError, match="route '"):
        ROUTES.parameters(route)


def example(text: str, label: str, **fields: object) -> Example:
    return Example(text, {"text": text, "label": label, **fields}, f"rows:{text}")


def test_the_majority_is_the_most_common_label_and_the_first_by_name_where_two_are() -> None:
    task = load_task("movies")
    fit = BASELINES.get("majority").fit
    items = [example("x", "?")] * 3
    many, _, _ = fit(task, [example(str(i), "positive" if i % 3 else "negative") for i in range(9)], 0)
    assert many(items) == ["positive"] * 3
    even, _, _ = fit(task, [example("a", "positive"), example("b", "negative")], 0)
    assert even(items) == ["negative"] * 3


def test_one_human_is_a_rater_who_took_a_side_whatever_else_is_asked() -> None:
    task = load_task("movies")
    said, trained, _ = BASELINES.get("human").fit(task, [], 3)
    items = [example("all", "positive", ratings=[0, 0, 2, 3]), example("none", "negative", ratings=[0, -1, 0])]
    mixed = [example(str(i), "positive", ratings=[1, -1]) for i in range(40)]
    assert (said(items), trained) == (["positive", "negative"], 0)
    assert said(mixed)[5:] == said(mixed[5:])
    assert 10 <= Counter(said(mixed))["positive"] <= 30


def test_one_human_agrees_with_the_mean_of_the_others_on_movies() -> None:
    """0.96 on movies: the issue's figure, of one rating against the mean of the rest."""
    task = load_task("movies")
    said, _, _ = BASELINES.get("human").fit(task, [], 0)
    items = task.splits.test
    assert sum(a == task.gold(e) for a, e in zip(said(items), items, strict=True)) / len(items) == pytest.approx(0.96, abs=0.015)


def test_learned_baselines_learn_what_the_majority_cannot(task: Path, tmp_path: Path) -> None:
    names = ["tfidf", "majority"]
    learned, predictions = climb_here(task, tmp_path, "", baselines=names)
    assert learned.route == "TF-IDF + logreg"
    assert learned.value == 1.0
    assert learned.trained_parameters > 100
    assert {p.prompt for p in predictions} == {""}
    # What is made on first use (an import takes a second) is no part of a query.
    assert learned.ms_per_query < 50
    assert learned.p95_ms < 50


def test_a_baseline_that_cannot_be_fitted_leaves_the_others_be(tmp_path: Path) -> None:
    """Training rows of one label: nothing for a classifier to learn, and the majority class is what it is."""
    same = [{"text": f"uno {i}", "label": "a"} for i in range(20)]
    write_rows(tmp_path / "train.jsonl", same)
    write_rows(tmp_path / "test.jsonl", [{"text": f"dos {i}", "label": "ab"[i % 2]} for i in range(6)])
    yaml = tmp_path / "t.yaml"
    yaml.write_text("name: t\ndata: {train: train.jsonl, test: test.jsonl}\ntemplate: '{text} {answer}'\nchoices: [a, b]\n")
    with pytest.raises(AssertionError, match="at least 2 classes"):
        climb_here(yaml, tmp_path / "run", "", baselines=["tfidf", "majority"])
    folder = tmp_path / "run" / "routes" / "baselines"
    assert (folder / "majority" / "result.json").is_file()
    assert (folder / "tfidf.failure.json").is_file()
