"""A group of workers does what one does: the same rows, the same update, the same checkpoints."""

import random
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from small_fit import Training, rows, same

from tunesmith.core.errors import Interrupted, UserError, WorkFailed
from tunesmith.train import checkpoint
from tunesmith.train.engines._group import Group
from tunesmith.train.engines.local import Engine, current, use


@pytest.fixture(params=["all", "trained"])
def group(request: pytest.FixtureRequest) -> Iterator[Group]:
    """A process group of one: everything is divided, into one part."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1, timeout=timedelta(seconds=60))
    try:
        yield Group(request.param == "all")
    finally:
        dist.destroy_process_group()


def divided(group: Group, folder: Path, **how: Any) -> Training:
    """A small training whose model is divided."""
    training = Training(folder, **how)
    training.parameters, training.loss = group.divide(training.lm.model, training.parameters, training.loss)  # type: ignore
    return training


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_divided_model_learns_the_same(tmp_path: Path, group: Group, method: str, dtype: str) -> None:
    plain = Training(tmp_path / "plain", method=method, dtype=dtype, learning_rate=1e-3)
    expected = plain.fit().losses
    with use(group):
        got = divided(group, tmp_path / "divided", method=method, dtype=dtype, learning_rate=1e-3).fit().losses
    assert got == pytest.approx(expected, abs=1e-5 if dtype == "fp32" else 3e-2)
    assert max(expected) - min(expected) > 0.05  # it has learnt, so equal losses mean equal updates


def test_checkpoints_go_from_one_to_a_group_and_back(tmp_path: Path, group: Group) -> None:
    straight = Training(tmp_path / "straight")
    expected = straight.fit().losses
    alone = Training(tmp_path / "run")
    alone.before_loss = stop_at(6)
    with pytest.raises(WorkFailed):
        alone.fit()
    with use(group):
        together = divided(group, tmp_path / "run")
        group.signal = 15  # after one more step
        with pytest.raises(Interrupted):
            together.fit()
    found = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert found
    assert {type(t) for t in found[1]["optimizer"].values()} == {torch.Tensor}
    last = Training(tmp_path / "run")
    assert last.fit().losses == pytest.approx(expected, abs=1e-5)
    assert all(torch.allclose(a, straight.weights()[n], atol=1e-4) for n, a in last.weights().items())
    assert not same(last.weights(), Training(tmp_path / "other").weights())


def stop_at(number: int) -> Any:
    """Make the loss NaN at a forward pass, so that training stops there with a checkpoint."""
    return lambda n: float("nan") if n == number else None


def test_every_row_of_a_step_is_somebodys_and_the_shares_are_even(group: Group) -> None:
    group.workers = 3
    for count in (1, 2, 3, 7, 40):
        data = rows(count, seed=count)
        passes = group.passes(data, 64)
        batches = [batch for row in passes for batch in row if batch]
        assert sorted(i for b in batches for i in b.example_ids) == sorted(e.example_id for e in data)
        assert all(len(row) == 3 and any(row) for row in passes)
        tokens = [sum(row[rank].tokens for row in passes if row[rank]) for rank in range(3)]  # type: ignore[union-attr]
        assert max(tokens) - min(tokens) <= max(map(len, data))


def test_an_idle_worker_changes_nothing(tmp_path: Path) -> None:
    class Idle(Engine):
        """One worker of two, whose turn is every second pass."""

        def passes(self, examples: Any, token_budget: int) -> Any:
            batches = [row[0] for row in super().passes(examples, token_budget)]
            return [row for batch in batches for row in ([batch, None], [None, batch])]

        def gather(self, value: float) -> list[float]:
            return [value, 0.0]

    plain, training = Training(tmp_path / "plain", dropout=0.0), Training(tmp_path / "idle", dropout=0.0)
    expected = plain.fit().losses
    with use(Idle()):
        assert training.fit().losses == expected
    assert same(training.weights(), plain.weights())
    assert training.losses_made == 2 * plain.losses_made


def test_a_group_names_the_rows_of_whichever_worker_went_wrong(tmp_path: Path, group: Group) -> None:
    with use(group):
        training = divided(group, tmp_path, tokens_per_micro_batch=1)
        whole = training.loss
        training.loss = lambda batch: (whole(batch)[0] * float("nan"), 1)  # type: ignore
        with pytest.raises(WorkFailed, match=r"loss of step 1 is nan.*rows.jsonl:\d+") as raised:
            training.fit()
    assert raised.value.exit_code == 1


def test_workers_that_see_different_folders_say_so(tmp_path: Path, group: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "gather", lambda value: [value, value + random.randrange(1, 9)])
    with use(group), pytest.raises(UserError, match="different checkpoints"):
        divided(group, tmp_path).fit()


def test_the_engine_is_local_outside_and_after(group: Group) -> None:
    with use(group):
        assert current() is group
    assert type(current()) is Engine
