"""The encoder routes on a toy encoder: they learn, save what others can load, go on where they stopped, and refuse bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pet import cloze_task
from tickets import climb_here, write_task

from tunesmith.core.encode import token_ids
from tunesmith.evaluate.results import Prediction, RouteResult
from tunesmith.models.toy import byte_tokenizer
from tunesmith.recipes._routes import pet_steps

CLASSIFIER = "classifier:encoder=toy-bert,learning_rate=0.003,labelled=30"
PET = {
    "name": "pet", "encoder": "toy-bert", "labelled": 30, "texts": 1, "epochs": 20, "learning_rate": 0.003, "unlabelled": 24,
    "distillation_epochs": 30, "distillation_rate": 0.003,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def climb(task: Path, folder: Path, route: Any, **settings: Any) -> tuple[RouteResult, list[Prediction]]:
    """Climb in float32, so that numbers are the same on every processor."""
    return climb_here(task, folder, route, dtype="fp32", **settings)


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RouteResult, list[Prediction]]:
    folder = tmp_path_factory.mktemp("classifier")
    return folder, *climb(write_task(folder / "task"), folder / "run", f"{CLASSIFIER},repeats=2")


def test_a_classifier_learns_from_a_few_rows(fine_tuned: tuple[Path, RouteResult, list[Prediction]]) -> None:
    _, result, predictions = fine_tuned
    assert result.value >= 0.9
    assert len(result.draws) == 2
    assert len(predictions) == 24
    assert result.trained_parameters > 100_000
    assert result.forgetting is None
    tokenizer = byte_tokenizer()
    assert result.tokens_per_query == sum(len(token_ids(tokenizer, p.prompt)) for p in predictions[:12]) / 12
    for p in predictions:
        assert p.prompt == p.text
        assert p.predicted == max(p.scores, key=lambda label: p.scores[label])
        assert sum(torch.tensor(list(p.scores.values())).exp()) == pytest.approx(1, abs=1e-5)


def test_what_is_saved_is_a_plain_model_directory(fine_tuned: tuple[Path, RouteResult, list[Prediction]]) -> None:
    from transformers import AutoModelForSequenceClassification

    folder, _, predictions = fine_tuned
    tokenizer = byte_tokenizer()
    saved = sorted(folder.rglob("config.json"))
    assert [path.parent.parent.name for path in saved] == ["repeat-1", "repeat-2"]
    for draw, path in enumerate(saved):
        model = AutoModelForSequenceClassification.from_pretrained(path.parent).eval()
        for p in [p for p in predictions if p.draw == draw][:4]:
            with torch.inference_mode():
                logits = model(input_ids=torch.tensor([token_ids(tokenizer, p.prompt)])).logits[0]
            assert model.config.id2label[int(logits.argmax())] == p.predicted
            said = [p.scores[model.config.id2label[i]] for i in range(3)]
            assert logits.log_softmax(-1).tolist() == pytest.approx(said, abs=1e-4)
    assert not list(folder.rglob("checkpoints"))


def test_a_finished_repeat_is_not_trained_again(fine_tuned: tuple[Path, RouteResult, list[Prediction]]) -> None:
    folder, before, predictions = fine_tuned
    logs = {path: path.read_text(encoding="utf-8") for path in folder.rglob("metrics.jsonl")}
    (route,) = folder.rglob("result.json")
    route.unlink()
    again, same = climb(folder / "task" / "tickets.yaml", folder / "run", f"{CLASSIFIER},repeats=2")
    assert logs == {path: path.read_text(encoding="utf-8") for path in folder.rglob("metrics.jsonl")}
    assert [p.predicted for p in same] == [p.predicted for p in predictions]
    assert (again.notes, again.seconds) == (before.notes, before.seconds)


def test_all_rows_are_used_with_the_best_weights_on_validation_rows(tmp_path: Path) -> None:
    settings = {"train": {"max_steps": 8}}
    result, _ = climb(write_task(tmp_path / "task"), tmp_path / "run", "classifier:encoder=toy-bert", **settings)
    assert "8 steps on" in result.notes[0]
    assert "best accuracy on" in result.notes[1]
    (log,) = tmp_path.rglob("metrics.jsonl")
    assert sum("eval_accuracy" in line for line in log.read_text(encoding="utf-8").splitlines()) == 2


def test_activations_can_be_computed_again_instead_of_kept(tmp_path: Path) -> None:
    task, route = write_task(tmp_path / "task"), "classifier:encoder=toy-bert,labelled=12"
    kept, again = (
        climb(task, tmp_path / str(on), route, train={"max_steps": 4, "activation_checkpointing": on})[1] for on in (False, True)
    )
    assert [list(p.scores.values()) for p in again] == [pytest.approx(list(p.scores.values()), abs=1e-5) for p in kept]


def test_pet_learns_goes_on_where_it_stopped_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = cloze_task(tmp_path / "task")

    def stop(*anything: object) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pet_steps, "fit_encoder", stop)
        with pytest.raises(KeyboardInterrupt):
            climb(task, tmp_path / "run", PET)
    votes = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("vote.json")}
    assert sorted(path.parent.name for path in votes) == ["model-1", "model-2"]
    result, predictions = climb(task, tmp_path / "run", PET)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("vote.json")} == votes
    assert result.route.startswith("PET n=30")
    assert result.value >= 0.9
    whole, same = climb(task, tmp_path / "whole", PET)
    assert [p.scores for p in same] == [p.scores for p in predictions]
    assert whole.value == result.value
    said = [json.loads(path.read_text(encoding="utf-8")) for path in votes]
    assert all(len(one["logits"]) == 24 and len(one["logits"][0]) == 3 for one in said)
    assert all(one["before"] <= 0.6 for one in said)


def test_ipet_climbs(tmp_path: Path) -> None:
    small = {
        **PET,
        "labelled": 6,
        "generations": 2,
        "epochs": 1,
        "least_steps": 2,
        "distillation_epochs": 1,
        "weights": "accuracy",
    }
    result, _ = climb(cloze_task(tmp_path / "task"), tmp_path / "run", small)
    assert result.route.startswith("iPET n=6")
    votes = sorted(str(path.parent.relative_to(path.parents[2])) for path in tmp_path.rglob("vote.json"))
    assert votes == [f"generation-{g}/model-{m}" for g in (1, 2) for m in (1, 2)]


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ("classifier:encoder=toy-bert,labelled=2", "labelled = 2 rows cannot show 3 labels"),
        ("pet:encoder=toy-bert,labelled=2", "labelled = 2 rows cannot show 3 labels"),
        ("pet:encoder=toy-bert,labelled=5000", "there are only 57 training rows"),
        ("pet:encoder=toy-bert,labelled=57", "leaves no training row to be labelled"),
        ("pet:encoder=toy-llama,labelled=6", "toy-llama.* is not an encoder"),
        ("pet:encoder=toy-bert,labelled=6,patterns=1,generations=2,least_steps=1,texts=0", "nobody to learn from"),
    ],
)
def test_bad_settings_are_refused_by_their_reason(tmp_path: Path, route: str, message: str) -> None:
    task = cloze_task(tmp_path / "task")
    with pytest.raises(AssertionError, match=message):
        climb(task, tmp_path / "run", route, train={"max_steps": 1})


def test_a_text_that_is_too_long_is_named(tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    file = tmp_path / "task" / "train.jsonl"
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["text"] += "!" * 600
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(AssertionError, match=r"train.jsonl:\d+: the text has 6\d\d tokens; toy-bert reads at most 512"):
        climb(task, tmp_path / "run", "classifier:encoder=toy-bert")
