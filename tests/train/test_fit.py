"""The training loop: it learns, it continues bit for bit, it stops before damage, and it keeps the best."""

import json
import math
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from small_fit import SETTINGS, Training, rows, same

from tunesmith.core.errors import UserError, WorkFailed
from tunesmith.core.records import Encoded
from tunesmith.core.runs import Run
from tunesmith.train import checkpoint
from tunesmith.train import training as train
from tunesmith.train.fit import fit
from tunesmith.train.parameters import FitParameters


def logged(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


class Killed(BaseException):
    """Stands for the end of a process: nothing may catch it."""


def kill_at(number: int) -> Any:
    """Die before a given loss is made."""

    def before(made: int) -> None:
        if made == number:
            raise Killed

    return before


@pytest.mark.parametrize(("method", "dtype"), [("lora", "fp32"), ("lora", "bf16"), ("full", "fp32"), ("full", "bf16")])
def test_stopped_and_continued_is_straight_and_not_a_cold_start(tmp_path: Path, method: str, dtype: str) -> None:
    options: dict[str, Any] = {"method": method, "dtype": dtype}
    straight = Training(tmp_path / "straight", **options)
    expected = straight.fit()
    assert expected.steps == 9
    for death in (1, 2, 4, 6, 9):  # within epochs and between them, at saved steps and beside them
        folder = tmp_path / f"stopped-{death}"
        victim = Training(folder, **options)
        victim.before_loss = kill_at(death)
        with pytest.raises(Killed):
            victim.fit()
        torch.manual_seed(99)  # the next process has another random state
        heir = Training(folder, **options)
        fitted = heir.fit()
        assert same(heir.weights(), straight.weights()), death
        assert fitted.losses == expected.losses
        assert (fitted.tokens, fitted.supervised_tokens) == (expected.tokens, expected.supervised_tokens)
        assert [row["step"] for row in logged(folder)] == list(range(1, 10))
        assert heir.losses_made == 9 - (death - 1) // 2 * 2
    cold = Training(tmp_path / "cold", **options)
    cold.fit(seed=1)
    assert not same(cold.weights(), straight.weights())


def test_dropout_is_part_of_what_continues(tmp_path: Path) -> None:
    # The control of the test above: with dropout drawn from the history, a continued run would differ.
    with_dropout, without = Training(tmp_path / "a", dropout=0.1), Training(tmp_path / "b", dropout=0.0)
    with_dropout.fit()
    without.fit()
    assert not same(with_dropout.weights(), without.weights())


def test_optimizer_state_is_the_same_too(tmp_path: Path) -> None:
    straight, stopped = Training(tmp_path / "a"), Training(tmp_path / "b")
    straight.fit()
    stopped.before_loss = kill_at(6)
    with pytest.raises(Killed):
        stopped.fit()
    Training(tmp_path / "b").fit()
    ours, theirs = (checkpoint.latest(tmp_path / f / "checkpoints") for f in ("a", "b"))
    assert ours
    assert theirs
    assert same(ours[1]["optimizer"], theirs[1]["optimizer"])
    assert any(name.startswith("exp_avg_sq/") for name in ours[1]["optimizer"])


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, again = Training(tmp_path / "a"), Training(tmp_path / "a")
    expected = first.fit()
    assert again.fit() == expected
    assert again.losses_made == 0
    assert same(again.weights(), first.weights())


def test_it_learns(tmp_path: Path) -> None:
    training = Training(tmp_path / "a", method="full", epochs=20, save_steps=1000)
    losses = training.fit().losses
    assert losses[0] == pytest.approx(math.log(262), abs=0.3)  # an untrained model: about one in 262 tokens
    assert losses[-1] < losses[0] - 1.0  # a small adapter on random weights: a nat is far beyond the noise of a batch


@pytest.mark.parametrize("changes", [
    {"batch_size": 4, "gradient_accumulation_steps": 1}, {"batch_size": 1, "gradient_accumulation_steps": 4},
    {"tokens_per_micro_batch": 1}, {"tokens_per_micro_batch": 40},
])  # fmt: skip
def test_how_a_batch_is_cut_changes_nothing(tmp_path: Path, changes: dict[str, int]) -> None:
    ours, theirs = Training(tmp_path / "a", dropout=0.0), Training(tmp_path / "b", dropout=0.0, **changes)
    assert ours.fit().losses == pytest.approx(theirs.fit().losses, rel=1e-5)


def test_the_loss_is_the_mean_over_the_tokens_of_the_whole_batch(tmp_path: Path) -> None:
    # Rows of 2 and of 8 targets in micro-batches of their own: the mean of their means would weigh them alike.
    few, many = rows(2)
    many = Encoded(tuple(range(20, 30)), (False, False) + (True,) * 8, "many")
    training = Training(tmp_path, dropout=0.0, batch_size=2, gradient_accumulation_steps=1, tokens_per_micro_batch=1, max_steps=1)
    sums, counts = [], []
    real = training.loss

    def remember(batch: Any) -> tuple[torch.Tensor, dict[str, float]]:
        nll, stats = real(batch)
        sums.append(float(nll.detach()))
        counts.append(int(batch.loss_mask[:, 1:].sum()))
        return nll, stats

    run = Run(tmp_path, {"test": 1}, {})
    fitted = fit(train.Training(remember, training.parameters, [few, many], training.how, 0), run)
    assert sorted(counts) == [2, 8]
    assert fitted.losses[0] == pytest.approx(sum(sums) / 10)
    mean_of_means = sum(s / c for s, c in zip(sums, counts, strict=True)) / 2
    assert abs(fitted.losses[0] - mean_of_means) > 1e-3


def test_steps_and_epochs(tmp_path: Path) -> None:
    def steps(count: int, **changes: Any) -> int:
        return Training(tmp_path / f"{count}-{changes}", **changes).fit(data=rows(count)).steps

    assert steps(12) == 9  # 3 epochs of 3 batches of 2 x 2
    assert steps(13, epochs=1) == 4  # the last batch has one row
    assert steps(12, epochs=0.5) == 2
    assert steps(1, epochs=0.01) == 1
    assert steps(12, max_steps=5) == 5


def test_the_log_has_the_schedule(tmp_path: Path) -> None:
    Training(tmp_path, max_steps=10, warmup=0.2).fit()
    rates = [row["learning_rate"] for row in logged(tmp_path)]
    assert rates == pytest.approx([5e-3 * f for f in (0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8)])


BAD = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("at", [1, 5])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, bad: str, at: int) -> None:
    training, healthy = Training(tmp_path / "a", tokens_per_micro_batch=1), Training(tmp_path / "b", tokens_per_micro_batch=1)
    # Four micro-batches a step: the bad one is the second of step `at`.
    training.before_loss = lambda made: BAD[bad] if made == 4 * (at - 1) + 2 else None
    healthy.before_loss = kill_at(4 * (at - 1) + 1)
    with pytest.raises(WorkFailed, match=rf"the loss of step {at} is {bad}; .* Rows: rows.jsonl:\d+\n") as caught:
        training.fit()
    with pytest.raises(Killed):
        healthy.fit()
    assert caught.value.exit_code == 1
    assert same(training.weights(), healthy.weights())
    step, tensors, _ = checkpoint.latest(tmp_path / "a" / "checkpoints") or (0, {}, {})
    assert step == at - 1
    assert all(bool(t.isfinite().all()) for t in tensors["optimizer"].values())
    assert all(math.isfinite(row["loss"]) for row in (logged(tmp_path / "a") if at > 1 else []))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path: Path, bad: float) -> None:
    training = Training(tmp_path, save_steps=1)
    some = next(iter(training.parameters.values()))
    before = training.weights()
    some.register_hook(lambda gradient: gradient * bad if training.losses_made == 3 else gradient)
    with pytest.raises(WorkFailed, match=r"the gradient of step 3 is (nan|inf)") as caught:
        training.fit()
    named = caught.value.message.rpartition("Rows: ")[2].split(", ")
    assert len(named) == 4
    assert set(named) <= {row.example_id for row in rows()}
    after = training.weights()
    assert all(bool(t.isfinite().all()) for t in after.values())
    assert not same(before, after)  # the two good steps are there
    # The same command fails at the same place, and does not walk past it.
    again = Training(tmp_path, save_steps=1)
    next(iter(again.parameters.values())).register_hook(lambda gradient: gradient * bad)
    with pytest.raises(WorkFailed, match=r"the gradient of step 3 is (nan|inf)"):
        again.fit()


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path) -> None:
    # bfloat16 ends at 3.39e38: the first update with this rate makes infinite weights of finite gradients.
    training = Training(tmp_path, dtype="bf16", learning_rate=1e39, warmup=0, save_steps=1)
    with pytest.raises(WorkFailed, match=r"after step 1 the weights of .*lora_[AB]\S* is not finite, so it was not saved"):
        training.fit()
    assert checkpoint.latest(tmp_path / "checkpoints") is None
    # With rarer saves the next loss tells, and what was whole before stays.
    later = Training(tmp_path / "b", learning_rate=1e30, warmup=0, save_steps=100)
    with pytest.raises(WorkFailed):
        later.fit()
    found = checkpoint.latest(tmp_path / "b" / "checkpoints")
    assert found is None or all(bool(t.isfinite().all()) for t in found[1]["optimizer"].values())


def test_a_validation_value_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match="the value on the validation rows after step 3 is nan"):
        Training(tmp_path, evaluations=3).fit(evaluate=lambda: math.nan)


def judged(
    folder: Path, values: list[float], **changes: Any
) -> tuple[Any, list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """Train with evaluations that give these values; the weights at each, and those that stayed."""
    training, seen = Training(folder, max_steps=12, evaluations=len(values), **changes), []

    def evaluate() -> float:
        seen.append(training.weights())
        return values[len(seen) - 1]

    fitted = training.fit(evaluate=evaluate)
    return fitted, seen, training.weights()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_best_weights_stay(tmp_path: Path, dtype: str) -> None:
    fitted, seen, final = judged(tmp_path, [0.1, 0.9, 0.5, 0.2], dtype=dtype)
    assert (fitted.best, fitted.steps, fitted.stopped_early) == (0.9, 12, False)
    assert same(final, seen[1])
    assert not same(final, seen[3])
    assert [row["eval_accuracy"] for row in logged(tmp_path) if "eval_accuracy" in row] == [0.1, 0.9, 0.5, 0.2]


def test_of_evaluations_that_cannot_be_told_apart_the_later_stays(tmp_path: Path) -> None:
    fitted, seen, final = judged(tmp_path, [0.1, 0.9, 0.89, 0.2])
    assert fitted.best == 0.89  # the value of the weights that stayed, not of others
    assert same(final, seen[2])
    strict, seen, final = judged(tmp_path / "strict", [0.1, 0.9, 0.89, 0.2], tolerance=0)
    assert strict.best == 0.9
    assert same(final, seen[1])
    # A slow slide does not carry: what counts is the distance from the best.
    sliding, seen, final = judged(tmp_path / "sliding", [0.9, 0.885, 0.87, 0.855])
    assert sliding.best == 0.885
    assert same(final, seen[1])


def test_patience_ends_a_run_and_an_ended_run_stays_ended(tmp_path: Path) -> None:
    fitted, seen, final = judged(tmp_path, [0.5, 0.4, 0.3, 0.2, 0.9, 1.0], patience=2)
    assert (fitted.steps, fitted.stopped_early, len(seen)) == (6, True, 3)
    assert same(final, seen[0])
    again = Training(tmp_path, max_steps=12, evaluations=6, patience=2)
    assert again.fit(evaluate=lambda: 1.0) == fitted
    assert same(again.weights(), final)
    # The control: with more patience it would have seen the better ones.
    assert judged(tmp_path / "b", [0.5, 0.4, 0.3, 0.2, 0.9, 1.0], patience=4)[0].best == 1.0


@pytest.mark.parametrize("death", [3, 5, 8, 11])
def test_what_was_best_survives_a_kill(tmp_path: Path, death: int) -> None:
    values = {3: 0.1, 6: 0.9, 9: 0.5, 12: 0.4}
    expected, _, final = judged(tmp_path / "a", list(values.values()))
    victim = Training(tmp_path / "b", max_steps=12, evaluations=4)
    victim.before_loss = kill_at(death)

    def evaluate(training: Training, already: int) -> float:
        return values[already + training.losses_made]

    with pytest.raises(Killed):
        victim.fit(evaluate=lambda: evaluate(victim, 0))
    heir = Training(tmp_path / "b", max_steps=12, evaluations=4)
    fitted = heir.fit(evaluate=lambda: evaluate(heir, (death - 1) // 2 * 2))
    assert same(heir.weights(), final)
    assert (fitted.best, fitted.losses) == (expected.best, expected.losses)


def test_training_goes_on_when_the_disk_is_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    free, full = Training(tmp_path / "free"), Training(tmp_path / "full")
    expected = free.fit()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(made: int) -> None:  # from the fifth step on no file may be larger than this
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000 if made >= 5 else soft, hard))

    full.before_loss = fill
    try:
        fitted = full.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert fitted.losses == expected.losses
    assert same(full.weights(), free.weights())
    assert capsys.readouterr().err.count("could not be written") == 3  # steps 6, 8 and 9
    assert (checkpoint.latest(tmp_path / "full" / "checkpoints") or (0,))[0] == 4
    heir = Training(tmp_path / "full")
    assert heir.fit().losses == expected.losses
    assert same(heir.weights(), free.weights())


def test_a_log_that_cannot_be_written_does_not_end_a_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a" / "metrics.jsonl").mkdir(parents=True)
    (tmp_path / "a" / "run.json").write_text('{"inputs": {"test": 1}}')
    assert Training(tmp_path / "a", max_steps=1).fit().steps == 1
    assert "WARNING: step 1 could not be written to metrics.jsonl" in capsys.readouterr().err


def test_a_damaged_newest_checkpoint_costs_steps_and_not_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    straight, victim = Training(tmp_path / "a"), Training(tmp_path / "b")
    straight.fit()
    victim.before_loss = kill_at(8)
    with pytest.raises(Killed):
        victim.fit()
    (tmp_path / "b" / "checkpoints" / "step-00000006" / "optimizer.safetensors").write_bytes(b"rot")
    heir = Training(tmp_path / "b")
    heir.fit()
    assert "step-00000006 is passed over: optimizer.safetensors has changed" in capsys.readouterr().err
    assert heir.losses_made == 5  # steps 5 to 9
    assert same(heir.weights(), straight.weights())


def test_torch_is_left_as_it_was(tmp_path: Path) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory
    inside = []
    training = Training(tmp_path, max_steps=1)
    training.before_loss = lambda _: inside.append(torch.are_deterministic_algorithms_enabled())
    training.fit()
    assert inside == [True]
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory == filling


@pytest.mark.parametrize(("key", "value"), [
    ("epochs", 0), ("epochs", math.inf), ("max_steps", 0), ("batch_size", 0), ("gradient_accumulation_steps", 0),
    ("learning_rate", math.nan), ("learning_rate", -1e-3), ("warmup", 1.5), ("save_steps", 0), ("evaluations", -1),
    ("patience", 0), ("weight_decay", -1), ("clip_norm", math.nan), ("schedule", "liner"), ("tokens_per_micro_batch", 0),
])  # fmt: skip
def test_settings_that_mean_nothing_are_refused(key: str, value: Any) -> None:
    from tunesmith.core.config import validate

    with pytest.raises(UserError, match=f"train: {key}"):
        validate(FitParameters, {**SETTINGS, key: value}, "train")
