"""Routes of a ladder side by side: each a task of Ray, on whichever machine has processors and memory for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tunesmith.core.errors import Interrupted
from tunesmith.core.progress import say
from tunesmith.recipes._child import Failure, read_failure
from tunesmith.recipes._ladder.climb import Assignment, climb, failure_file

# How often a route is begun again whose process or machine was lost; a trained one goes on from its checkpoint.
_RETRIES = 2


def climb_side_by_side(
    assignments: Mapping[str, Assignment], gigabytes: Mapping[str, float], address: str | None
) -> dict[str, Failure]:
    """Climb routes as tasks of Ray, as many at a time as there are processors and memory for.

    Args:
        assignments: label -> route. gigabytes: label -> estimated peak memory, which is reserved for it.
        address: of a running cluster; None = start one on this machine.

    Returns:
        label -> why it left no result, for those that did not.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
        Interrupted: a signal; trainings have finished their step and saved.
    """
    from tunesmith.train.engines.ray import cluster
    from tunesmith.train.fit import Signals

    with cluster(address, 1) as ray, Signals() as signals:
        failures: dict[str, Failure] = {}
        pending = _submit(ray, assignments, gigabytes, failures)
        cancelled = False
        while pending:
            ready, _ = ray.wait(list(pending), timeout=0.5)
            if signals.caught and not cancelled:
                cancelled = True
                for answer in pending:
                    ray.cancel(answer)
            for answer in ready:
                label = pending.pop(answer)
                if failure := _outcome(ray, answer, Path(assignments[label].folder)):
                    failures[label] = failure
        if signals.caught:
            for assignment in assignments.values():
                failure_file(Path(assignment.folder)).unlink(missing_ok=True)
            raise Interrupted("stopped; what is finished is kept", 128 + signals.caught, "The same command goes on from there.")
    return failures


def _submit(
    ray: Any, assignments: Mapping[str, Assignment], gigabytes: Mapping[str, float], failures: dict[str, Failure]
) -> dict[Any, str]:
    """Hand routes to Ray, biggest first; returns task -> label. What fits no machine is noted as a failure."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    threads = next(iter(assignments.values())).threads or int(max(m.get("CPU", 1) for m in machines))
    largest = max(m.get("memory", 0.0) for m in machines) / 1e9
    graphics = int(any(m.get("GPU") for m in machines))
    # A process for every task, so that its peak memory is its own.
    task = ray.remote(max_calls=1, max_retries=_RETRIES, num_cpus=threads, num_gpus=graphics)(_climb)
    pending: dict[Any, str] = {}
    for label, assignment in sorted(assignments.items(), key=lambda item: -gigabytes[item[0]]):
        failure_file(Path(assignment.folder)).unlink(missing_ok=True)
        needed = gigabytes[label]
        if needed > largest:
            reason = f"it needs about {needed:.1f} GB of memory, and the largest machine has {largest:.1f} GB free"
            failures[label] = Failure(reason, "Lower tokens_per_micro_batch, or add a larger machine.")
            continue
        place = task.options(memory=int(needed * 1e9), name=label)
        pending[place.remote(asdict(replace(assignment, threads=threads)), os.getcwd())] = label
    say(f"climbing {', '.join(pending.values())} side by side, {threads} threads each")
    return pending


def _climb(assignment: dict[str, Any], folder: str) -> int:
    os.chdir(folder)
    return climb(Assignment(**assignment))


def _outcome(ray: Any, answer: Any, folder: Path) -> Failure | None:
    """Return why a task left no result, None if it did."""
    try:
        code = ray.get(answer)
    except ray.exceptions.OutOfMemoryError:
        return Failure("its machine ran out of memory, and so it was ended", "Lower tokens_per_micro_batch.")
    except ray.exceptions.RayTaskError as error:
        return Failure(f"{type(error.cause).__name__}: {error.cause}")
    except ray.exceptions.RayError as error:
        return Failure(f"its process was lost {_RETRIES + 1} times ({type(error).__name__})")
    return (read_failure(folder) or Failure(f"it ended with exit code {code} and said nothing")) if code else None
