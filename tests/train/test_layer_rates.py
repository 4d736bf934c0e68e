"""Rates that fall from layer to layer, and what BERT's published optimizer would do differently."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.models.toy import build
from tunesmith.train.layers import rates_by_layer
from tunesmith.train.update import Updater, schedule_factor


def test_each_layer_has_the_rate_of_the_one_above_times_the_decay() -> None:
    names = [name for name, _ in build("toy-bert")[0].named_parameters()]
    rates = rates_by_layer(names, 0.5)
    assert {rate for name, rate in rates.items() if ".layer.1." in name} == {0.5}
    assert {rate for name, rate in rates.items() if ".layer.0." in name} == {0.25}
    assert {rate for name, rate in rates.items() if "embeddings" in name} == {0.125}
    assert {name.partition(".")[0] for name in names if name not in rates} == {"cls"}


def test_decoders_have_layers_too() -> None:
    rates = rates_by_layer([name for name, _ in build("toy-llama")[0].named_parameters()], 0.5)
    assert rates["model.layers.0.mlp.up_proj.weight"] == 0.25
    assert rates["model.embed_tokens.weight"] == 0.125
    assert "model.norm.weight" not in rates


def test_no_decay_is_no_rates() -> None:
    assert rates_by_layer(["bert.encoder.layer.0.x"], 1.0) == {}
    assert rates_by_layer(["classifier.weight"], 0.9) == {}


def test_rates_reach_the_optimizer() -> None:
    p, q = (torch.nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    updater = Updater({"p": p, "q": q}, 0.0, 0.0, {"q": 0.5})
    for one in (p, q):
        one.grad = torch.full((2, 2), 0.1)
    updater.gather()
    updater.step(0.01)
    assert float(1 - p.detach()[0, 0]) == pytest.approx(2 * float(1 - q.detach()[0, 0]), rel=1e-4)


def test_the_first_step_is_corrected_for_bias_as_adamw_and_not_as_in_berts_code() -> None:
    """Methods, section 2: p = 1, g = .1, rate 5e-5, decay .01: BERT's optimizer gives 0.9998414361, AdamW 0.9999495."""
    p = torch.nn.Parameter(torch.ones(1, 1))
    updater = Updater({"p": p}, 0.01, 0.0)
    p.grad = torch.full((1, 1), 0.1)
    updater.gather()
    updater.step(5e-5)
    assert float(p.detach()) == pytest.approx(0.9999495, abs=1.5e-7)
    m, v = 0.1 * 0.1, 0.001 * 0.1**2
    uncorrected = 1 - 5e-5 * (m / (math.sqrt(v) + 1e-6) + 0.01)
    assert uncorrected == pytest.approx(0.9998414361, abs=1e-9)
    assert abs(float(p.detach()) - uncorrected) > 1e-5


def test_the_rate_does_not_fall_at_the_end_of_the_warm_up() -> None:
    """Methods, section 2: at steps 50, 100 and 550 of 1,000 with a warm-up of 100, BERT's 2.5e-5, 4.5e-5, 2.25e-5."""
    rates = [5e-5 * schedule_factor("linear", step, 1000, 100) for step in (49, 99, 100, 550)]
    assert rates == pytest.approx([2.5e-5, 5e-5, 5e-5, 2.5e-5])
    berts = [5e-5 * min(step / 100, 1) if step < 100 else 5e-5 * (1 - step / 1000) for step in (50, 100, 550)]
    assert berts == pytest.approx([2.5e-5, 4.5e-5, 2.25e-5])
