"""Ray: the same training in several processes, on one machine or many, started again where a worker dies.

Ray places the workers and notices their death; between them runs torch.distributed (gloo, and NCCL on GPUs). Nothing but
settings, a signal and a few numbers goes through Ray: data, model and checkpoints are files that every machine sees.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from tunesmith.core.errors import Interrupted, TunesmithError, UserError, WorkFailed
from tunesmith.core.progress import say

Work = Callable[[dict[str, Any]], dict[str, float]]
_ERRORS: dict[str, type[TunesmithError]] = {"UserError": UserError, "WorkFailed": WorkFailed}
# Seconds: for a place in the cluster, for the others to be heard when one worker failed, between two looks.
PLACE, _GRACE, LOOK = 300.0, 3.0, 0.5


class Lost(Exception):
    """A worker is gone, with what it left us to say."""


def launch(work: Work, settings: dict[str, Any]) -> list[dict[str, float]]:
    """Run `work(settings)` on every worker, as one process group, until all are done.

    Args:
        work: a function of a module, which the workers import; its result is plain numbers.
        settings: of `tune`; used here are workers, address, restarts, threads and shard.

    Returns:
        What each worker returned, by rank.

    Raises:
        UserError: Ray is not installed or not reachable, the cluster is too small, or what `work` raised.
        WorkFailed: workers were lost more often than `restarts`; names each loss. Or what `work` raised.
        Interrupted: a signal; the step was finished and saved.
    """
    lost: list[str] = []
    record = Path(settings["run_dir"]) / "run.json"
    before = _written(record)
    with cluster(settings["address"], settings["workers"] * (settings["threads"] or 1)) as ray:
        while True:
            try:
                return _train_once(ray, work, settings)
            except Lost as loss:
                lost.append(str(loss))
            if _written(record) != before:  # what was to be overwritten is, and what is there now is ours
                settings = {**settings, "overwrite": False, "resume": True}
            if len(lost) > settings["restarts"]:
                raise WorkFailed(
                    f"workers were lost {len(lost)} times: {'; '.join(lost)}",
                    "Look into Ray's logs for the reason. The same command goes on from the newest checkpoint.",
                )
            say(f"{lost[-1]}; starting again from the newest checkpoint ({len(lost)} of {settings['restarts']} restarts)")


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0


@contextmanager
def cluster(address: str | None, processors: int) -> Iterator[Any]:
    """Connect to a Ray cluster, or start one on this machine with at least so many processors; yields Ray itself.

    One that is connected already is used as it is, and left so.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise UserError("several workers need Ray, which is not installed: pip install 'tunesmith[ray]'") from None
    # We say ourselves what happens to workers, once and in our words.
    logging.getLogger("ray").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    if address:
        how: dict[str, Any] = {"address": address}
    else:
        # Nearly nothing goes through the object store (this is its smallest size), and nobody else needs to reach this cluster.
        how = {"object_store_memory": 80 << 20, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        how["num_cpus"] = max(len(os.sched_getaffinity(0)), processors)
    try:
        ray.init(logging_level=logging.ERROR, **how)
    except (ConnectionError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"no Ray cluster answers at '{address}': {first}", "Look with: ray status") from None
    try:
        yield ray
    finally:
        ray.shutdown()


@contextmanager
def reserved(ray: Any, workers: int, threads: int | None) -> Iterator[tuple[Any, Mapping[str, float]]]:
    """Reserve room for all workers at once inside a with-block: half of them could only wait. Yields it, and what each may use.

    Args:
        threads: of each worker; None = the cluster's processors divided among them.

    Raises:
        UserError: the cluster has no such room.
    """
    resources = ray.cluster_resources()
    threads = threads or max(int(resources.get("CPU", 1)) // workers, 1)
    needs = {"CPU": threads, **({"GPU": 1} if resources.get("GPU", 0) >= workers else {})}
    place = ray.util.placement_group([needs] * workers, strategy="PACK")
    has = ", ".join(f"{resources.get(kind, 0):g} {kind}" for kind in needs)
    try:
        if any(resources.get(kind, 0) < amount * workers for kind, amount in needs.items()) or not place.wait(PLACE):
            raise UserError(
                f"the cluster has no room for {workers} workers with {threads} threads each (it has {has} in all)",
                "Set fewer workers or --threads, or add a machine.",
            )
        yield place, needs
    finally:
        ray.util.remove_placement_group(place)


def begun(ray: Any, kind: type, place: tuple[Any, Mapping[str, float]], rank: int, concurrency: int = 1) -> Any:
    """Begin a worker in its part of what is `reserved`: kind(rank, this folder). Ray never starts it again by itself."""
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    room, needs = place
    options = {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0), "max_concurrency": concurrency, "max_restarts": 0}
    strategy = PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=rank)
    return ray.remote(kind).options(**options, scheduling_strategy=strategy).remote(rank, os.getcwd())


def _train_once(ray: Any, work: Work, settings: dict[str, Any]) -> list[dict[str, float]]:
    from tunesmith.train.fit import Signals

    with reserved(ray, settings["workers"], settings["threads"]) as place:
        settings = {**settings, "threads": int(place[1]["CPU"])}
        # Two at a time: a signal must be heard during the training.
        actors = [begun(ray, Worker, place, rank, concurrency=2) for rank in range(settings["workers"])]
        try:
            with Signals() as signals:
                store = answered(ray, actors[0].rendezvous.remote(), 0)
                return _wait(ray, actors, [actor.train.remote(store, work, settings) for actor in actors], signals)
        finally:
            for actor in actors:
                ray.kill(actor)


def _wait(ray: Any, actors: list[Any], answers: list[Any], signals: Any) -> list[dict[str, float]]:
    told, results = 0, {answer: {} for answer in answers}
    pending = list(answers)
    while pending:
        ready, pending = ray.wait(pending, timeout=LOOK)
        if signals.caught and not told:
            told = signals.caught
            for actor in actors:
                actor.stop.remote(told)
        for answer in ready:
            try:
                results[answer] = answered(ray, answer, answers.index(answer))
            except Lost as loss:
                raise _culprit(ray, answers, loss) from None
    return list(results.values())


def _culprit(ray: Any, answers: list[Any], first: Lost) -> Lost:
    """Return the loss of a worker whose process died, if there is one: the others only noticed that it was gone."""
    ends = time.monotonic() + _GRACE
    while time.monotonic() < ends:
        ready, _ = ray.wait(answers, num_returns=len(answers), timeout=LOOK)
        for answer in ready:
            try:
                answered(ray, answer, answers.index(answer))
            except Lost as loss:
                if "process died" in str(loss):
                    return loss
    return first


def answered(ray: Any, answer: Any, rank: int) -> Any:
    """Return what a worker answers; a dictionary with "error" is raised as what it stands for.

    Raises:
        Lost: the worker is gone, or failed in a way that nobody foresaw.
    """
    try:
        said = ray.get(answer)
    except ray.exceptions.RayActorError:
        raise Lost(f"worker {rank} was lost: its process died") from None
    except ray.exceptions.RayTaskError as error:
        last = str(error.cause).strip().splitlines()[:1]
        raise Lost(f"worker {rank} failed: {type(error.cause).__name__}: {''.join(last)}") from None
    if isinstance(said, dict) and "error" in said:
        kind, message, exit_code, fix = said["error"]
        raise Interrupted(message, exit_code, fix) if kind == "Interrupted" else _ERRORS[kind](message, fix)
    return said


def enter(rank: int, folder: str) -> None:
    """Go into the folder where the command was given, as all workers must.

    Raises:
        UserError: it is not there.
    """
    if not Path(folder).is_dir():
        raise UserError(f"worker {rank} does not see {folder}", "Start in a folder that all machines of the cluster share.")
    os.chdir(folder)


def in_words(error: TunesmithError) -> dict[str, Any]:
    """Return what a person can understand of a failure as a worker's answer, which `answered` raises again."""
    known = next(name for name in type(error).__mro__ if name.__name__ in (*_ERRORS, "Interrupted"))
    return {"error": (known.__name__, error.message, error.exit_code, error.fix)}


class Worker:
    """One process of the group; an actor of Ray."""

    def __init__(self, rank: int, folder: str) -> None:
        self.rank, self.folder = rank, folder
        self._engine: Any = None
        self._signal = 0

    def rendezvous(self) -> str:
        """Return host:port where the first worker can be met."""
        import socket

        import ray

        host = ray.util.get_node_ip_address()
        with socket.socket() as free:
            free.bind((host, 0))
            return f"{host}:{free.getsockname()[1]}"

    def train(self, rendezvous: str, work: Work, settings: dict[str, Any]) -> dict[str, Any]:
        """Join the group and work; what a person can understand of a failure comes back as a dictionary."""
        import torch
        import torch.distributed as dist

        from tunesmith.train.engines._group import Group
        from tunesmith.train.engines.local import use

        try:
            enter(self.rank, self.folder)
        except UserError as error:
            return in_words(error)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(
            backend, f"tcp://{rendezvous}", timedelta(minutes=30), rank=self.rank, world_size=settings["workers"]
        )
        self._engine = Group(settings["shard"] == "all")
        self._engine.signal = self._signal
        try:
            with use(self._engine):
                return work(settings)
        except TunesmithError as error:
            return in_words(error)
        finally:
            dist.destroy_process_group()

    def stop(self, signal: int) -> None:
        """Finish the step, save and end, as after this signal."""
        self._signal = signal
        if self._engine:
            self._engine.signal = signal
