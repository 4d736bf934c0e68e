"""The diagonal Fisher information: per example, with labels drawn from the model; checked by hand and against its expectation."""

import numpy as np
import torch

from tunesmith.core.records import Encoded
from tunesmith.core.seeds import derive
from tunesmith.data.collate import Batch
from tunesmith.train.fisher import fisher_information, sampled

ROWS = [Encoded((7, 3), (False, True), "a"), Encoded((2, 9), (False, True), "b")]
INPUTS = {7: np.array([1.0, -0.5]), 2: np.array([0.3, 2.0])}


class Logistic:
    """p(y|x) = softmax(W x) over three labels; x follows from a row's first token."""

    def __init__(self) -> None:
        self.w = torch.nn.Parameter(torch.tensor([[0.2, -0.1], [0.5, 0.4], [-0.3, 0.1]]))

    def loss(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """Of labels drawn from the model."""
        x = torch.tensor(np.stack([INPUTS[int(i)] for i in batch.ids[:, 0]]), dtype=torch.float32)
        return sampled(x @ self.w.T, torch.zeros(len(x), dtype=torch.long))


def probabilities(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    z = np.exp(w @ x - (w @ x).max())
    return z / z.sum()


def gradient(w: np.ndarray, x: np.ndarray, label: int) -> np.ndarray:
    """d log p(label|x) / dW = (onehot - p) x^T."""
    return np.outer(np.eye(3)[label] - probabilities(w, x), x)


def test_squares_are_taken_per_example_with_the_labels_that_were_drawn() -> None:
    model = Logistic()
    w = model.w.detach().numpy().astype(float)
    found = fisher_information(model.loss, {"w": model.w}, ROWS, seed=3)["w"].numpy()
    gradients = []
    for number, row in enumerate(ROWS):
        torch.manual_seed(derive(3, "fisher", number))
        x = INPUTS[row.ids[0]]
        label = int(torch.multinomial(torch.tensor(probabilities(w, x)[None], dtype=torch.float32), 1))
        gradients.append(gradient(w, x, label))
    assert np.allclose(found, sum(g * g for g in gradients) / 2, atol=1e-6)
    # The control: the square of the batch's gradient is something else.
    assert not np.allclose(found, sum(gradients) ** 2 / 2, atol=1e-3)
    assert model.w.grad is None


def test_on_average_it_is_the_expectation_over_the_models_own_labels() -> None:
    model = Logistic()
    w = model.w.detach().numpy().astype(float)
    exact = np.zeros((3, 2))
    for x in INPUTS.values():
        exact += sum(p * gradient(w, x, y) ** 2 for y, p in enumerate(probabilities(w, x))) / 2
    mean = np.mean([fisher_information(model.loss, {"w": model.w}, ROWS, seed)["w"].numpy() for seed in range(300)], axis=0)
    assert np.abs(mean - exact).max() < 0.08
    # With one label for all (the "empirical" Fisher of gold labels) it would be far from that.
    empirical = sum(gradient(w, x, 0) ** 2 for x in INPUTS.values()) / 2
    assert np.abs(empirical - exact).max() > 0.15


def test_the_random_state_is_left_as_it_was() -> None:
    model = Logistic()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = fisher_information(model.loss, {"w": model.w}, ROWS, seed=1)["w"]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(fisher_information(model.loss, {"w": model.w}, ROWS, seed=1)["w"], first)
