"""One update does what the papers say, on the weights that should have it, with the precision that keeps it."""

import math

import pytest
import torch

from tunesmith.core.errors import UserError
from tunesmith.train.update import Updater, restore, round_at_random, schedule_factor, weights


def moved(p: torch.nn.Parameter, gradient: float, rate: float, steps: int, decay: float = 0.01, clip: float = 0.0) -> list[float]:
    """The first element of a parameter after each of some updates with a constant gradient."""
    updater, seen = Updater({"p": p}, decay, clip), []
    for _ in range(steps):
        p.grad = torch.full_like(p, gradient)
        updater.gather()
        updater.step(rate)
        seen.append(float(p.detach().flatten()[0]))
    return seen


def matrix(value: float, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    """One weight with two dimensions, so that it is decayed."""
    return torch.nn.Parameter(torch.full((1, 1), value, dtype=dtype))


def test_adamw_golden_values() -> None:
    # Step 1: m/(1-b1) = g, v/(1-b2) = g^2, so p (1 - lr wd) - lr = 1 - 1e-5 - 1e-3; the same again from there.
    assert moved(matrix(1.0), 0.1, 1e-3, 2) == pytest.approx([0.9989900, 0.9979800], abs=1e-6)
    # Methods, section 2: not the 0.9998414361 of BERT's Adam without bias correction.
    assert moved(matrix(1.0), 0.1, 5e-5, 1) == pytest.approx([0.9999495], abs=1e-6)
    # The control: without decay, or with the gradient turned round, the numbers are others.
    assert moved(matrix(1.0), 0.1, 1e-3, 1, decay=0.0)[0] == pytest.approx(0.999, abs=1e-7)
    assert moved(matrix(1.0), -0.1, 1e-3, 1)[0] > 1.0009


def test_many_updates_are_those_of_torch() -> None:
    torch.manual_seed(0)
    ours = {"weight": torch.nn.Parameter(torch.randn(7, 5)), "bias": torch.nn.Parameter(torch.randn(7))}
    theirs = {name: torch.nn.Parameter(p.detach().clone()) for name, p in ours.items()}
    updater = Updater(ours, 0.1, 1.0)
    optimizer = torch.optim.AdamW(
        [{"params": [theirs["weight"]], "weight_decay": 0.1}, {"params": [theirs["bias"]], "weight_decay": 0.0}], lr=1e-2
    )
    for step in range(20):
        for name, p in ours.items():
            p.grad = torch.randn_like(p) * (3.0 if step % 2 else 0.01)
            theirs[name].grad = p.grad.clone()
        updater.gather()
        norm = torch.nn.utils.clip_grad_norm_(theirs.values(), 1.0)
        optimizer.step()
        assert updater.step(1e-2) == pytest.approx(float(norm), rel=1e-5)
    for name, p in ours.items():
        assert (p - theirs[name]).abs().max() < 1e-5


def test_vectors_are_not_decayed() -> None:
    vector = torch.nn.Parameter(torch.ones(3))
    assert moved(vector, 0.0, 0.1, 5, decay=0.5) == [1.0] * 5
    assert moved(matrix(1.0), 0.0, 0.1, 1, decay=0.5) == pytest.approx([0.95])


def test_clipping_bounds_the_whole_gradient() -> None:
    p, q = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    seen = []
    for clip in (1.0, 10.0, 0.0):
        updater = Updater({"p": p, "q": q}, 0.0, clip)
        p.grad, q.grad = torch.tensor([3.0]), torch.tensor([4.0])
        assert updater.step(1e-3) == pytest.approx(5.0)  # the norm before clipping, of both together
        seen.append([float(updater.optimizer.state[m]["exp_avg"]) for m in (p, q)])
    # The first moment is a tenth of the gradient that was applied.
    assert seen == [pytest.approx([0.06, 0.08]), pytest.approx([0.3, 0.4]), pytest.approx([0.3, 0.4])]


def test_a_network_of_its_own_is_clipped_by_itself() -> None:
    p, q = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    seen = []
    for clip in (1.0, 3.5):
        updater = Updater({"p": p, "q": q}, 0.0, clip, apart={"q"})
        p.grad, q.grad = torch.tensor([3.0]), torch.tensor([4.0])
        assert updater.step(1e-3) == pytest.approx(5.0)
        seen.append([float(updater.optimizer.state[m]["exp_avg"]) for m in (p, q)])
    assert seen == [pytest.approx([0.1, 0.1]), pytest.approx([0.3, 0.35])]


def test_float32_masters_keep_what_bfloat16_loses() -> None:
    # Near 1 bfloat16 knows steps of 2^-8 downwards; an update of 1e-4 rounds away, forty of them do not.
    ours = moved(matrix(1.0, torch.bfloat16), 1.0, 1e-4, 40, decay=0.0)
    assert ours[0] == 1.0
    assert ours[-1] == pytest.approx(1 - 40e-4, abs=2**-9)
    # The control: torch's optimizer on the bfloat16 weight itself never moves it.
    plain = matrix(1.0, torch.bfloat16)
    optimizer = torch.optim.AdamW([plain], lr=1e-4, weight_decay=0.0)
    for _ in range(40):
        plain.grad = torch.ones_like(plain)
        optimizer.step()
    assert float(plain.detach()) == 1.0


def test_gradients_are_summed_in_float32() -> None:
    p = matrix(0.0, torch.bfloat16)
    updater, control = Updater({"p": p}, 0.0, 0.0), torch.zeros(1, dtype=torch.bfloat16)
    for _ in range(1000):
        p.grad = torch.ones_like(p)
        updater.gather()
        control += 1
    assert updater.step(1e-3) == 1000.0
    assert float(control) == 256.0  # bfloat16 has no 257


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_that_is_not_finite_changes_nothing(bad: float, dtype: torch.dtype) -> None:
    p, q = matrix(1.0, dtype), matrix(2.0, dtype)
    updater = Updater({"p": p, "q": q}, 0.1, 1.0)
    p.grad, q.grad = torch.full_like(p, bad), torch.ones_like(q)
    updater.gather()
    assert not math.isfinite(updater.step(1e-2))
    assert (float(p.detach()), float(q.detach())) == (1.0, 2.0)
    assert not updater.optimizer.state
    assert p.grad is None
    assert updater.masters["q"].grad is None


def test_a_weight_that_is_not_finite_is_found_by_name() -> None:
    parameters = {"fine": matrix(1.0), "ill": torch.nn.Parameter(torch.tensor([1.0, math.inf]))}
    assert Updater(parameters, 0.0, 0.0).not_finite() == "the weights of ill"
    parameters["ill"] = torch.nn.Parameter(torch.tensor([1.0, math.nan]))
    assert Updater(parameters, 0.0, 0.0).not_finite() == "the weights of ill"
    parameters["ill"] = matrix(-3e38)
    assert Updater(parameters, 0.0, 0.0).not_finite() == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_continues_as_if_nothing_had_happened(dtype: torch.dtype) -> None:
    straight, stopped, forgetful = (matrix(1.0, dtype) for _ in range(3))
    expected = moved(straight, 0.3, 1e-3, 6)
    first = Updater({"p": stopped}, 0.01, 0.0)
    for _ in range(3):
        stopped.grad = torch.full_like(stopped, 0.3)
        first.gather()
        first.step(1e-3)
    state = {name: t.clone() for name, t in first.state().items()}
    fresh = matrix(5.0, dtype)
    second = Updater({"p": fresh}, 0.01, 0.0)
    second.load_state(state)
    assert float(fresh.detach()) == float(stopped.detach())
    with torch.no_grad():
        forgetful.copy_(stopped)
    third = Updater({"p": forgetful}, 0.01, 0.0)
    for updater, p in ((second, fresh), (third, forgetful)):
        for _ in range(3):
            p.grad = torch.full_like(p, 0.3)
            updater.gather()
            updater.step(1e-3)
    assert float(fresh.detach()) == expected[-1]
    # The control: weights without moments and step count go elsewhere.
    assert not torch.equal(third.state()["exp_avg/p"], second.state()["exp_avg/p"])


def test_kept_weights_come_back_and_do_not_follow() -> None:
    p = matrix(1.0)
    kept = weights({"p": p})
    moved(p, 1.0, 0.1, 3)
    assert float(kept["p"]) == 1.0 != float(p.detach())
    restore({"p": p}, kept)
    assert float(p.detach()) == 1.0


def test_the_schedule_is_that_of_hugging_face() -> None:
    # Methods, section 2: at step 50, 100 and 550 of 1000 with 100 of warm-up, peak 5e-5. Their step 50 of the warm-up has
    # made 50 updates and the first of them with a rate of zero; ours counts from 0 and its first update moves.
    peak = {step: 5e-5 * schedule_factor("linear", step, 1000, 100) for step in (0, 49, 99, 100, 550, 999)}
    assert peak[49] == pytest.approx(2.5e-5)
    assert peak[100] == pytest.approx(5e-5)
    assert peak[550] == pytest.approx(2.5e-5)
    assert peak[0] == pytest.approx(5e-7)
    assert peak[99] == pytest.approx(5e-5)
    assert peak[999] == pytest.approx(5e-5 / 900)
    # The control: BERT's own schedule decays from step 0 and has 4.5e-5 and 2.25e-5 there.
    assert abs(peak[100] - 4.5e-5) > 1e-6 < abs(peak[550] - 2.25e-5)


def test_the_schedule_agrees_with_the_library_after_warm_up() -> None:
    from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

    for name, library in (("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)):
        factor = library(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), 7, 50).lr_lambdas[0]
        assert [schedule_factor(name, s, 50, 7) for s in range(7, 50)] == pytest.approx([factor(s) for s in range(7, 50)])
        assert [schedule_factor(name, s, 50, 7) for s in range(7)] == pytest.approx([factor(s + 1) for s in range(7)])


def test_every_schedule_rises_once_and_never_leaves_its_bounds() -> None:
    for name in ("linear", "cosine", "constant"):
        for total, warmup in ((1, 0), (1, 1), (5, 0), (20, 4), (20, 20)):
            factors = [schedule_factor(name, s, total, warmup) for s in range(total)]
            assert all(0 < f <= 1 for f in factors)
            assert max(factors) == 1.0
            assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert [schedule_factor("constant", s, 9, 2) for s in range(9)] == [0.5] + [1.0] * 8


def test_moments_that_are_not_finite_are_found_too() -> None:
    # The square of 1e25 is beyond float32: weights stay finite, but every later update would be 0.
    weight = matrix(1.0)
    updater = Updater({"a": weight}, 0.0, 0.0)
    weight.grad = torch.full_like(weight, 1e25)
    updater.step(0.1)
    assert bool(weight.isfinite().all())
    assert updater.not_finite() == "exp_avg_sq of a"
    tamed = Updater({"a": weight}, 0.0, 1.0)
    weight.grad = torch.full_like(weight, 1e15)
    tamed.step(0.1)
    assert tamed.not_finite() == ""


def test_the_schedule_of_gpt_falls_while_it_rises() -> None:
    # Radford et al. 2018, the authors' code: (x / w if x <= w else 1) (1 - x) at x = .001, .002, .5, .999 with w = .002.
    found = [schedule_factor("gpt", step, 1000, 2) for step in (0, 1, 499, 998)]
    assert found == pytest.approx([0.4995, 0.998, 0.5, 0.001])
    assert schedule_factor("linear", 1, 1000, 2) == 1.0, "the usual one reaches its peak"


def test_a_state_of_other_shapes_is_refused() -> None:
    state = Updater({"table": torch.nn.Parameter(torch.ones(3, 2))}, 0.0, 0.0).state()
    other = Updater({"table": torch.nn.Parameter(torch.zeros(5, 2))}, 0.0, 0.0)
    with pytest.raises(UserError, match=r"\(3, 2\) for 'table', and this training \(5, 2\)"):
        other.load_state(state)
    with pytest.raises(UserError, match="no 'bias'"):
        Updater({"bias": torch.nn.Parameter(torch.zeros(2))}, 0.0, 0.0).load_state(state)
    Updater({"table": torch.nn.Parameter(torch.zeros(3, 2))}, 0.0, 0.0).load_state(state)


def test_rounding_at_random_is_exact_on_average_and_leaves_what_bfloat16_holds() -> None:
    source = torch.tensor([1.0 + 2**-9, -(1.0 + 2**-9), 0.05, -3e-4, 0.0]).repeat(40_000, 1)
    target = torch.empty(source.shape, dtype=torch.bfloat16)
    round_at_random(source, target, 1)
    spacing = torch.tensor([2**-7, 2**-7, 2**-12, 2**-19, 1.0])
    # At most one step of bfloat16 away, and the mean of 40,000 within five standard errors (a step's share p has sd <= 1/2).
    assert ((target.float() - source).abs() < spacing).all()
    assert ((target.double().mean(0) - source[0].double()).abs() < 5 * 0.5 * spacing / 200).all()
    # The control: to the nearest, 1 + 2^-9 (a quarter of a step above 1) is 1 every time.
    assert (source.bfloat16()[:, 0] == 1).all()
    assert (target[:, 0] != 1).double().mean() == pytest.approx(0.25, abs=5 * 0.433 / 200)
    exact = torch.empty_like(target)
    round_at_random(target.float(), exact, 2)
    assert torch.equal(exact, target)


def test_rounding_at_random_is_the_same_with_the_same_seed_only() -> None:
    source = torch.linspace(-1, 1, 200_001)
    one, again, other = (torch.empty(200_001, dtype=torch.bfloat16) for _ in range(3))
    for target, seed in ((one, 3), (again, 3), (other, 4)):
        round_at_random(source, target, seed)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_small_update_is_seen_by_the_next_forward_pass() -> None:
    # 1e-4 is less than half of bfloat16's step at 0.05 (2.4e-4): to the nearest, the model would not have moved.
    p = torch.nn.Parameter(torch.full((300, 300), 0.05, dtype=torch.bfloat16))
    before = float(p.detach().double().mean())
    moved(p, 1.0, 1e-4, 1, decay=0.0)
    assert before - float(p.detach().double().mean()) == pytest.approx(1e-4, rel=0.03)
    assert torch.equal(torch.tensor(before - 1e-4).bfloat16(), torch.tensor(before).bfloat16())
