"""L2-SP and EWC on the weights themselves: the same numbers as plain numpy, resumed to the bit, and paid for in the plan."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_fit import Training as Toy
from small_fit import rows, same

from tunesmith.core.runs import Run
from tunesmith.objectives import ewc, l2_sp
from tunesmith.train import plan
from tunesmith.train.anchor import Anchor
from tunesmith.train.fit import Fitted, fit
from tunesmith.train.training import Training
from tunesmith.train.update import Updater

RATE, DECAY = 0.01, 0.1


def in_numpy(start: np.ndarray, gradients: list[np.ndarray], a: float, fisher: np.ndarray, strength: float) -> np.ndarray:
    """AdamW by hand (no decay to zero), with the decoupled pull first and EWC's gradient added to that of the loss."""
    w, m, v = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for t, gradient in enumerate(gradients, 1):
        g = gradient + strength * fisher * (w - start)
        w = w - RATE * a * (w - start)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - RATE * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return w


@pytest.mark.parametrize(("a", "strength"), [(30.0, 0.0), (0.0, 50.0), (20.0, 10.0)])
def test_updates_are_those_of_plain_numpy(a: float, strength: float) -> None:
    generator = np.random.default_rng(0)
    start, fisher = generator.normal(size=(3, 4)), generator.uniform(0, 2, size=(3, 4))
    gradients = [generator.normal(size=(3, 4)) for _ in range(12)]
    p = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
    anchor = Anchor(a, strength, {"p": torch.tensor(fisher, dtype=torch.float32)})
    updater = Updater({"p": p}, DECAY if a else 0.0, 0.0, anchor=anchor)
    for gradient in gradients:
        p.grad = torch.tensor(gradient, dtype=torch.float32)
        updater.gather()
        updater.step(RATE)
    expected = in_numpy(start, gradients, a, fisher, strength)
    assert np.abs(p.detach().numpy() - expected).max() < 1e-5
    # The control: without the anchor the weights end elsewhere, farther from their start.
    free = in_numpy(start, gradients, 0.0, fisher, 0.0)
    assert np.abs(expected - free).max() > 1e-3
    assert np.abs(expected - start).sum() < np.abs(free - start).sum()


def test_the_gradient_of_ewc_is_that_of_its_penalty() -> None:
    torch.manual_seed(0)
    start, fisher = torch.randn(5), torch.rand(5)
    p = torch.nn.Parameter(start.clone())
    updater = Updater({"p": p}, 0.0, 0.0, anchor=Anchor(ewc=3.0, fisher={"p": fisher}))
    with torch.no_grad():
        p.add_(torch.randn(5))
    assert updater.held
    updater.held.add_gradients()
    weights = p.detach().clone().requires_grad_()
    ewc.loss(weights, start, fisher, 3.0)[0].backward()
    assert torch.allclose(p.grad, weights.grad)  # type: ignore[arg-type]


def test_a_pull_without_gradient_is_a_step_down_the_penalty_of_l2_sp() -> None:
    start = torch.tensor([[1.0, 2.0]])
    p = torch.nn.Parameter(start.clone())
    updater = Updater({"p": p}, DECAY, 0.0, anchor=Anchor(l2_sp=4.0))
    with torch.no_grad():
        p.add_(torch.tensor([[0.5, -1.0]]))
    weights = p.detach().clone().requires_grad_()
    l2_sp.loss(weights, start, torch.zeros(1), 4.0, 0.0)[0].backward()
    expected = p.detach() - 0.1 * weights.grad  # type: ignore[operator]
    p.grad = torch.zeros_like(p)
    updater.gather()
    updater.step(0.1)
    # Decay to zero would have moved it by another 0.1 * 0.1 * w.
    assert torch.allclose(p.detach(), expected)
    for _ in range(3):  # a pull of more than the whole way stops at the start
        updater.step(100.0)
    assert torch.equal(p.detach(), start)


def test_new_weights_are_left_alone_and_rates_are_kept() -> None:
    parameters = {name: torch.nn.Parameter(torch.ones(1, 1)) for name in ("old", "slow", "head.weight")}
    anchor = Anchor(l2_sp=1.0, new=frozenset({"head.weight"}))
    updater = Updater(parameters, DECAY, 0.0, {"slow": 0.5}, anchor)
    for p in parameters.values():
        p.data.add_(1.0)
        p.grad = torch.zeros_like(p)
    updater.step(0.1)
    moved = {name: float(p.detach()) for name, p in parameters.items()}
    assert moved == pytest.approx({"old": 2 - 0.1, "slow": 2 - 0.05, "head.weight": 2 * (1 - 0.1 * DECAY)})


def trained(folder: Path, anchor: Anchor | None, death: int = 0, **options: Any) -> tuple[Toy, Fitted | None]:
    """Fit the toy, or die before a loss."""
    toy = Toy(folder, **options)
    if death:
        toy.before_loss = lambda made: (_ for _ in ()).throw(KeyboardInterrupt) if made == death else None
    training = Training(toy.loss, toy.parameters, rows(), toy.how, 0, anchor=anchor)
    try:
        return toy, fit(training, Run(folder, {"test": 1}, {}))
    except KeyboardInterrupt:
        return toy, None


def anchor_for(kind: str, **options: Any) -> Anchor:
    if kind == "l2_sp":
        return Anchor(l2_sp=20.0)
    generator = torch.Generator().manual_seed(0)
    names = Toy(Path("unused"), **options).parameters
    return Anchor(0.0, 100.0, {name: torch.rand(p.shape, generator=generator) for name, p in names.items()})


@pytest.mark.parametrize("kind", ["l2_sp", "ewc"])
@pytest.mark.parametrize(("method", "dtype"), [("lora", "fp32"), ("full", "bf16")])
def test_stopped_and_continued_is_straight(tmp_path: Path, kind: str, method: str, dtype: str) -> None:
    options = {"method": method, "dtype": dtype}
    anchor = anchor_for(kind, **options)
    straight, fitted = trained(tmp_path / "straight", anchor, **options)
    assert fitted
    for death in (4, 7):
        folder = tmp_path / f"stopped-{death}"
        assert trained(folder, anchor, death, **options)[1] is None
        heir, ended = trained(folder, anchor, **options)
        assert ended
        assert same(heir.weights(), straight.weights())
        assert ended.losses == fitted.losses
    free, _ = trained(tmp_path / "free", None, **options)
    assert not same(free.weights(), straight.weights())


def test_the_plan_pays_for_start_and_fisher(tmp_path: Path) -> None:
    for dtype, start in (("fp32", 4), ("bf16", 2)):
        toy = Toy(tmp_path, method="full", dtype=dtype)
        count = sum(p.numel() for p in toy.parameters.values())

        def needed(anchor: Anchor | None, toy: Toy = toy) -> float:
            training = Training(toy.loss, toy.parameters, rows(), toy.how, 0, anchor=anchor)
            return plan.count_memory(training, keeps_best=False).optimizer

        assert needed(Anchor(l2_sp=1.0)) - needed(None) == count * start
        assert needed(Anchor(ewc=1.0)) - needed(None) == count * (start + 4)


def test_ewc_is_rehearsed_without_a_fisher_information_but_never_trained(tmp_path: Path) -> None:
    toy = Toy(tmp_path / "run")
    training = Training(toy.loss, toy.parameters, rows(), toy.how, 0, anchor=Anchor(ewc=1.0))
    assert plan.calibrate(training, keeps_best=False).seconds > 0
    with pytest.raises(ValueError, match="Fisher"):
        fit(training, Run(tmp_path / "run", {}, {}))


def test_the_fisher_information_of_a_table_follows_the_rows_that_are_trained() -> None:
    fisher = {"table": torch.arange(6.0).reshape(3, 2), "other": torch.ones(2)}
    anchor = Anchor(ewc=1.0, fisher=fisher).on_rows("table", torch.tensor([2, 0]))
    assert anchor.fisher
    assert torch.equal(anchor.fisher["table"], torch.tensor([[4.0, 5.0], [0.0, 1.0]]))
    assert anchor.fisher["other"] is fisher["other"]
    assert Anchor(l2_sp=1.0).on_rows("table", torch.tensor([0])) == Anchor(l2_sp=1.0)
