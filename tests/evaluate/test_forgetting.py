"""What is measured away from the task: perplexity and the sibling tasks, before and after."""

from pathlib import Path

import pytest
import torch

from tunesmith.core import store
from tunesmith.data.task import load_task
from tunesmith.evaluate.forgetting import Guard, compare, measure, text_perplexity
from tunesmith.models.load import LM, load


@pytest.fixture
def toy() -> LM:
    """The toy decoder."""
    return load("toy-llama")


def test_perplexity_is_that_of_all_tokens_but_the_first_of_each_text(toy: LM) -> None:
    texts = ["A text.", "Another one, longer.", "x", ""]
    nll = count = 0.0
    for text in texts[:2]:
        ids = torch.tensor([toy.tokenizer(text).input_ids])
        logprobs = toy.model(ids).logits[0, :-1].detach().log_softmax(-1)
        nll -= float(logprobs.gather(-1, ids[0, 1:, None]).sum())
        count += ids.shape[1] - 1
    assert count == 6 + 19
    assert text_perplexity(toy, texts) == pytest.approx(float(torch.tensor(nll / count).exp()), rel=1e-5)
    # An untrained byte model knows nothing: about one in 262.
    assert 200 < text_perplexity(toy, texts) < 330


def test_the_guard_set_is_the_other_embedded_tasks(toy: LM) -> None:
    guard = measure(toy, load_task("movies"), rows=4)
    assert guard is not None
    assert guard.rows == {"editorials": 4, "products": 4, "tweets": 4}
    assert guard.accuracies.keys() == guard.rows.keys()
    assert measure(toy, load_task("movies"), rows=4) == guard
    assert guard.as_dict()["perplexity"] == guard.perplexity


def test_forgetting_is_the_mean_change_of_accuracy() -> None:
    rows = {"tweets": 10, "products": 10}
    before, after = Guard(8.0, {"tweets": 0.9, "products": 0.8}, rows), Guard(10.0, {"tweets": 0.6, "products": 0.9}, rows)
    change = compare(before, after)
    assert (change.perplexity_before, change.perplexity_after) == (8.0, 10.0)
    assert change.accuracy_change == pytest.approx(((0.6 - 0.9) + (0.9 - 0.8)) / 2)
    assert change.tasks["tweets"] == {"before": 0.9, "after": 0.6, "n": 10.0}


def test_without_the_data_forgetting_is_not_measured_and_that_is_said(
    toy: LM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = load_task("movies")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    monkeypatch.setattr(store, "_WAITS", ())
    assert measure(toy, task, rows=4) is None
    assert "forgetting is not measured: vaderSentiment-3.3.2.tar.gz (3 MB) is neither in the cache nor reachable" in (
        capsys.readouterr().err
    )
