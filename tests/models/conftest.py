"""Models for the tests of this room, in full precision, so that differences are faults and not rounding."""

import pytest
import torch

from tunesmith.models.load import LM, load


def sharpened(seed: int = 0) -> LM:
    """Return the toy decoder with weights so large that every token it reads changes what it says."""
    lm = load("toy-llama")
    lm.model.requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in lm.model.parameters():
            if weight.dim() == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) / weight.shape[1] ** 0.5 * 1.5)
    return lm


@pytest.fixture
def toy() -> LM:
    """The sharpened toy decoder, new for every test."""
    return sharpened()


@pytest.fixture(scope="session")
def smollm2() -> LM:
    """The embedded model."""
    return load("smollm2", "fp32")


@pytest.fixture(params=["toy", "smollm2"])
def lm(request: pytest.FixtureRequest) -> LM:
    """Both."""
    return request.getfixturevalue(request.param)
