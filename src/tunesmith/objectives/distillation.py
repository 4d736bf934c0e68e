"""Distillation: T^2 x the sum over rows of KL(softmax(teacher / T) || softmax(student / T)) (Hinton et al. 2015, section 2).

T^2 keeps gradients as large as those of a cross-entropy whatever T; PET distils with T = 2 (Schick & Schuetze 2021, 3.4).
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.core.records import WorkedExample

TEMPERATURE = 2.0


def loss(logits: torch.Tensor, teacher: torch.Tensor, temperature: float = TEMPERATURE) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the summed divergence of the student from the teacher, nats.

    Args:
        logits: [N, L] of the student. teacher: [N, L] logits (or log-probabilities) of the teacher.
        temperature: T; both sides are divided by it.

    Returns:
        The sum (scalar, float32 or better) and {"correct": rows where both prefer the same label}.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    student = torch.log_softmax(logits / temperature, -1)
    wanted = torch.log_softmax(teacher.to(logits.dtype) / temperature, -1)
    divergence = torch.nn.functional.kl_div(student, wanted, reduction="sum", log_target=True)
    return temperature**2 * divergence, {"correct": float((logits.detach().argmax(-1) == teacher.argmax(-1)).sum())}


def evaluate(logits: Any, teacher: Any, temperature: float) -> float:
    """Compute the loss of plain lists, for the worked example."""
    return float(loss(torch.tensor(logits), torch.tensor(teacher), temperature)[0])


def worked_example() -> WorkedExample:
    """Student (2, 0), teacher (1, 1.5), T = 2."""
    how = (
        "teacher softmax(.5, .75) = (.437823, .562177), student softmax(1, 0) = (.731059, .268941); "
        "KL = .437823 log(.437823 / .731059) + .562177 log(.562177 / .268941) = .190043, times 4 (methods, section 4)"
    )
    inputs = {"logits": [[2.0, 0.0]], "teacher": [[1.0, 1.5]], "temperature": 2.0}
    # The other direction of the divergence, which is what mixing up the two sides would give.
    return WorkedExample(inputs, 0.760172, how, wrong={"logits": [[1.0, 1.5]], "teacher": [[2.0, 0.0]], "temperature": 2.0})
