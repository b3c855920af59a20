"""Trials on a Ray cluster: Ray places them, retries those of a node that is lost, and carries what they return."""

from __future__ import annotations

import logging
import socket
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from sparsify_fx.errors import SweepError
from sparsify_fx.sweeps.plan import TrialConfig
from sparsify_fx.sweeps.trial import Job, Outcome, run_job

_LOG = logging.getLogger(__name__)


class RayEngine:
    """Runs jobs as Ray tasks, each with the cores and GPUs that the sweep's file says.

    Every node needs this package and the folder of the runs, on a file system that all share.

    Args:
        trial: what one trial takes; Ray repeats one whose node or process died as often as `retries` says.
        address: of the cluster: HOST:PORT, auto, ray://HOST:PORT, or local for one that is started here.

    Raises SweepError where Ray is not installed or no cluster is at the address.
    """

    def __init__(self, trial: TrialConfig, address: str) -> None:
        self._ray = _ray()
        _check_reachable(self._ray, address)
        try:
            self._ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR
            )
        # Ray has no class of its own for this: which one it is depends on how far the connection came.
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise SweepError(
                f"no Ray cluster at {address}: {' '.join(str(error).split())[:300]}; start one with `ray start "
                "--head`, or give the address of one"
            ) from None
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = trial.gpus
        if gpus is None:
            gpus = 1.0 if any(node.get("GPU") for node in nodes) else 0.0
        _warn_of_waiting(trial.cpus, gpus, nodes)
        self.workers = int(sum(node.get("CPU", 0) for node in nodes)) // trial.cpus
        # No GPU: one that the node has is hidden, so that all trials of a sweep train on the same kind of device.
        self._devices = None if gpus else ""
        self._task = self._ray.remote(_task)
        self._options = {
            "num_cpus": trial.cpus,
            "num_gpus": gpus,
            "max_retries": trial.retries,
        }
        self._running: dict[Future[Outcome], Any] = {}

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the trials that are still running, and leave the cluster as it was."""
        for future, reference in self._running.items():
            if not future.done():
                self._ray.cancel(reference, force=True)
        self._ray.shutdown()

    def submit(self, job: Job) -> Future[Outcome]:
        """Hand it to Ray, which runs it when a node has room."""
        task = self._task.options(name=job.trial, **self._options)
        reference = task.remote(job, self._devices)
        future: Future[Outcome] = reference.future()
        self._running[future] = reference
        return future


def _task(job: Job, devices: str | None) -> Outcome:
    """`run_job` on a node of the cluster."""
    from dataclasses import replace

    return run_job(replace(job, devices=devices))


def _ray() -> Any:
    """The package ray; SweepError where it is not installed."""
    try:
        import ray
    except ImportError:
        raise SweepError(
            "sweeps on a cluster need Ray; install it: pip install 'sparsify_fx[ray]'"
        ) from None
    return ray


def _check_reachable(ray: Any, address: str) -> None:
    """SweepError when nothing listens at HOST:PORT; other forms of addresses are Ray's to judge."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    # As ray.init does: it looks for a cluster of this machine at the machine's own address, never at the loopback.
    if host in ("localhost", "127.0.0.1") and not address.startswith("ray://"):
        host = ray.util.get_node_ip_address()
    # Asked first, since ray.init itself (2.60) tries for more than four minutes.
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise SweepError(
            f"no Ray cluster at {address}: {error.strerror or error}; start one with `ray start --head`, or give the "
            "address of one"
        ) from None


def _warn_of_waiting(cpus: int, gpus: float, nodes: list[dict[str, float]]) -> None:
    """A log line when no node has room for a trial: Ray waits for one, which a cluster that grows may get."""
    if not any(n.get("CPU", 0) >= cpus and n.get("GPU", 0) >= gpus for n in nodes):
        _LOG.warning(
            "no node of the cluster has %d cores and %g GPUs for a trial; Ray waits until one joins",
            cpus,
            gpus,
        )
