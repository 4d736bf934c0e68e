"""Every route and every baseline keeps its room's contract, on a task with choices and on one without."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from tunesmith.core.registry import BASELINES, ROUTES
from tunesmith.data.task import Task, load_task
from tunesmith.recipes._ladder.workload import Sizes

SIZES = Sizes(100, 50.0, 1000.0, 10, 5, weights=1_000_000, bytes_per_weight=2, micro_batch=256, width=640)
MORE = Sizes(200, 60.0, 2000.0, 10, 5, weights=1_000_000, bytes_per_weight=2, micro_batch=256, width=640)


@pytest.fixture(scope="module")
def reviews() -> Task:
    return load_task("movies")


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder: Path = tmp_path_factory.mktemp("sums")
    content = [json.dumps({"question": f"{i} + 1", "answer": str(i + 1)}) for i in range(30)]
    (folder / "rows.jsonl").write_text("\n".join(content) + "\n", encoding="utf-8")
    (folder / "sums.yaml").write_text(
        "name: sums\ndata: {train: rows.jsonl}\ntemplate: '{question} = {answer}'\n", encoding="utf-8"
    )
    return load_task(str(folder / "sums.yaml"))


@pytest.mark.parametrize("name", ROUTES.names())
def test_a_route_says_what_it_is_and_what_it_costs(name: str, reviews: Task, sums: Task) -> None:
    entry = ROUTES.get(name)
    parameters = entry.Parameters()
    assert entry.KIND in ("prompt", "tuned")
    assert 3 <= len(entry.label(parameters)) <= 24
    assert entry.unsuitable(reviews) == ""
    assert isinstance(entry.unsuitable(sums), str)
    work, more = entry.workload(parameters, SIZES), entry.workload(parameters, MORE)
    assert 0 < work.forward_tokens < more.forward_tokens
    assert work.memory_gb <= more.memory_gb
    assert callable(entry.climb)


@pytest.mark.parametrize("name", ROUTES.names())
def test_a_parameter_of_a_route_is_explained(name: str) -> None:
    fields = ROUTES.get(name).Parameters.model_fields
    assert [key for key, field in fields.items() if not field.description or field.default is PydanticUndefined] == []


def test_labels_are_the_routes_own() -> None:
    labels = [ROUTES.get(name).label(ROUTES.get(name).Parameters()) for name in ROUTES.names()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("name", BASELINES.names())
def test_a_baseline_answers_every_item_with_a_label(name: str, reviews: Task, sums: Task) -> None:
    entry = BASELINES.get(name)
    assert 3 <= len(entry.LABEL) <= 24
    assert entry.unsuitable(reviews) == ""
    assert entry.unsuitable(sums) != ""
    train, items = reviews.splits.train[:60], reviews.splits.test[:20]
    predict, trained, seconds = entry.fit(reviews, train, 7)
    answers = predict(items)
    assert len(answers) == len(items)
    assert set(answers) <= {"negative", "positive"}
    assert trained >= 0
    assert seconds >= 0
    # One at a time or all at once, once or twice: an answer belongs to its item.
    assert [predict([item])[0] for item in items[:5]] == answers[:5] == predict(items)[:5]
    again, _, _ = entry.fit(reviews, train, 7)
    assert again(items) == answers
