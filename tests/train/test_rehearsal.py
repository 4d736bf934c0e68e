"""Rehearsals leave no trace, memory is counted as it is used, and searches find what can be worked out by hand."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from small_fit import Training as Toy
from small_fit import rows

from tunesmith.core.errors import WorkFailed
from tunesmith.core.records import Encoded
from tunesmith.train import plan, search
from tunesmith.train.parameters import FitParameters
from tunesmith.train.rehearsal import Rehearsal
from tunesmith.train.training import Training
from tunesmith.train.update import weights

METHODS = pytest.mark.parametrize(("method", "dtype"), [("lora", "fp32"), ("lora", "bf16"), ("full", "fp32"), ("full", "bf16")])


@pytest.fixture(autouse=True)
def same_random_state() -> Iterator[None]:
    """Fail if random numbers were drawn from the global generator and not given back."""
    before = torch.get_rng_state()
    yield
    torch.set_rng_state(before)


def of(toy: Toy, data: list[Encoded] | None = None, **changes: object) -> Training:
    """What a toy trains, as it is measured."""
    return Training(toy.loss, toy.parameters, data or rows(40), toy.how.model_copy(update=changes), 0)


@METHODS
def test_nothing_that_measures_leaves_a_trace(tmp_path: Path, method: str, dtype: str) -> None:
    toy = Toy(tmp_path, method=method, dtype=dtype)
    before, random = weights(toy.parameters), torch.get_rng_state()
    training = of(toy)
    memory = plan.count_memory(training, keeps_best=True)
    plan.calibrate(training, keeps_best=True)
    search.find_batch_size(training, memory)
    search.find_lr(training)
    assert torch.equal(torch.get_rng_state(), random)
    for name, p in toy.parameters.items():
        assert torch.equal(p, before[name]), name
        assert p.grad is None, name
    assert not any(tmp_path.iterdir())


def test_a_rehearsal_really_trains_until_it_ends(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    before = weights(toy.parameters)
    with Rehearsal(of(toy)) as rehearsal:
        rehearsal.step(1e-2)
        assert any(not torch.equal(p, before[n]) for n, p in toy.parameters.items())
    assert all(torch.equal(p, before[n]) for n, p in toy.parameters.items())


def test_a_rehearsal_takes_back_what_it_did_before_it_failed(tmp_path: Path) -> None:
    toy = Toy(tmp_path)
    before = weights(toy.parameters)
    toy.before_loss = lambda number: math.nan if number == 3 else None
    with Rehearsal(of(toy, gradient_accumulation_steps=1)) as rehearsal:
        rehearsal.step(1e-2)
        rehearsal.step(1e-2)
        with pytest.raises(WorkFailed):
            rehearsal.step(1e-2)
    assert all(torch.equal(p, before[n]) and p.grad is None for n, p in toy.parameters.items())


def test_steps_of_a_rehearsal_are_those_of_fit(tmp_path: Path) -> None:
    toy, other = (Toy(tmp_path / name, schedule="constant", warmup=0, max_steps=4) for name in "ab")
    with Rehearsal(Training(toy.loss, toy.parameters, rows(), toy.how, 0)) as rehearsal:
        losses = [rehearsal.step(toy.how.learning_rate or 0) for _ in range(4)]
    assert losses == other.fit().losses
    with Rehearsal(Training(toy.loss, toy.parameters, rows(), toy.how, 1)) as rehearsal:
        assert losses != [rehearsal.step(toy.how.learning_rate or 0) for _ in range(4)]


@METHODS
def test_counted_memory_predicts_larger_batches(tmp_path: Path, method: str, dtype: str) -> None:
    # The slope between two small batches gives the bytes of one three times as large, which is counted too.
    toy = Toy(tmp_path, method=method, dtype=dtype)
    memory = plan.count_memory(of(toy), keeps_best=False)
    counted = plan._Counting.of(of(toy), 768).whole
    assert memory.fixed + memory.per_token * 768 == pytest.approx(counted, rel=0.05)
    assert memory.per_token * 96 < 0.5 * counted  # a batch eight times smaller is not the same


def test_counting_sees_exactly_what_is_held(tmp_path: Path) -> None:
    toy = Toy(tmp_path)

    def loss(batch: object) -> tuple[torch.Tensor, int]:
        weight = next(iter(toy.parameters.values()))
        big = torch.zeros(1000, dtype=torch.float64)  # 8,000 bytes, gone again before the next
        del big
        kept = torch.ones(500)  # 2,000 bytes, held to the end
        other = torch.zeros(250)  # 1,000 bytes beside them
        view = kept[:10]  # nothing
        return (weight.sum() * 0 + view.sum() + other.sum()) * 1.0, 1

    toy.loss = loss  # type: ignore[method-assign,assignment]
    assert plan._Counting.of(of(toy), 32).forward == 8000


def test_the_parts_of_memory_are_worked_out_by_hand(tmp_path: Path) -> None:
    for dtype, per_parameter, best in (("fp32", 4 + 8, 4), ("bf16", 2 + 4 + 4 + 8, 2)):
        toy = Toy(tmp_path, method="full", dtype=dtype)
        count = sum(p.numel() for p in toy.parameters.values())
        assert plan.count_memory(of(toy), keeps_best=False).optimizer == count * per_parameter
        assert plan.count_memory(of(toy), keeps_best=True).optimizer == count * (per_parameter + best)
    memory = plan.Memory(1e9, 2e9, 0.5e9, 1e6)
    assert memory.peak_gb(1000) == 4.5
    assert memory.most_tokens(4.5) == 1000
    assert memory.most_tokens(4.4999) == 999
    assert memory.most_tokens(3) < 0


def test_the_largest_micro_batch_is_the_budget_or_a_whole_step_or_a_long_row() -> None:
    def row(length: int) -> Encoded:
        return Encoded((6,) * length, (False,) + (True,) * (length - 1), "row")

    data = [row(n) for n in (10, 20, 30, 40)]
    for budget, size, expected in ((64, 4, 64), (1000, 4, 100), (1000, 2, 70), (16, 4, 40)):
        how = FitParameters.model_validate({"tokens_per_micro_batch": budget, "batch_size": size})
        assert plan.tokens_at_once([len(e) for e in data], how) == expected


def test_a_chosen_limit_holds_and_never_adds_memory() -> None:
    device = torch.device("cpu")
    everything = plan.limit_gb(device)
    assert plan.limit_gb(device, 0.001) == 0.001
    assert plan.limit_gb(device, 1e9) <= everything * 1.5 or math.isinf(everything)


def test_disk_is_what_checkpoints_take(tmp_path: Path) -> None:
    toy = Toy(tmp_path, save_steps=1, max_steps=4)
    predicted = plan.disk_bytes(Training(toy.loss, toy.parameters, rows(), toy.how, 0), best=False)
    toy.fit()
    on_disk = sum(f.stat().st_size for f in tmp_path.rglob("*.safetensors"))
    # Two are kept, a third stood beside them while it was written; headers name the tensors.
    assert on_disk * 3 / 2 == pytest.approx(predicted, rel=0.3)
    assert on_disk * 3 / 2 >= predicted


def test_a_suggested_rate_is_where_the_loss_falls_most_steeply() -> None:
    rates = [10 ** (-6 + i / 10) for i in range(50)]
    # A fall around 1e-3 (tanh is steepest at its middle), then a rise.
    falling = [4 - 2 * math.tanh(2 * (math.log10(r) + 3)) for r in rates]
    assert search.suggest(rates, falling) == pytest.approx(1e-3, rel=0.3)
    with pytest.raises(WorkFailed, match="no rate"):
        search.suggest(rates, falling[::-1])


def test_smoothing_has_no_bias_to_zero_and_divergence_is_seen() -> None:
    assert search.smooth([3.0] * 5) == pytest.approx([3.0] * 5)
    # By hand: (0.2 x 1 x 0.8 + 0.2 x 2) / (1 - 0.8^2) = 0.56 / 0.36.
    assert search.smooth([1.0, 2.0])[1] == pytest.approx(0.56 / 0.36)
    assert not search.has_diverged([5.0, 2.0, 2.9])
    assert search.has_diverged([5.0, 2.0, 3.1])


def test_a_loss_that_breaks_off_ends_the_sweep(tmp_path: Path) -> None:
    toy = Toy(tmp_path, method="full")
    toy.before_loss = lambda number: math.inf if number > 80 else None
    found = search.find_lr(of(toy))
    assert found.diverged
    assert len(found.rates) < search.STEPS
    assert len(found.losses) == len(found.rates)
    assert float(f"{found.suggestion:.1e}") == found.suggestion


def test_no_micro_batch_is_tried_that_does_not_fit(tmp_path: Path) -> None:
    toy = Toy(tmp_path, batch_size=32)
    training = of(toy, rows(200))
    memory = plan.count_memory(training, keeps_best=False)
    room = memory.peak_gb(300)
    tried = search.find_batch_size(training, memory, room)
    assert set(tried.tokens_per_second) == {128, 256}
    assert tried.suggestion in (128, 256)
    assert 512 in search.find_batch_size(training, memory).tokens_per_second
