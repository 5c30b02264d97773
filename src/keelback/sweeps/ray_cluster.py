"""The Ray executor: jobs on the machines of a Ray cluster, lost ones taken up again by others."""

import contextlib
import math
import os
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from keelback.errors import InputError, JobError
from keelback.sweeps.executor import Executor
from keelback.sweeps.worker import BatchEnd, BatchProgress, Job, PackedJob, execute_packed

_CONNECT_SECONDS = 5.0
_RESOURCES_SECONDS = 5.0


class RayExecutor(Executor):
    """Executes jobs on a Ray cluster, as many at a time as its cores and GPUs have room for.

    The store must lie on a file system that all nodes share, and keelback must be installed on
    each. A job whose node or process is lost is begun again on another; what it had stored is not
    executed twice.

    Args:
        address: of a running cluster, `HOST:PORT` or `ray://HOST:PORT` or `auto`; without one, a
            cluster of this machine alone is started and ended with the sweep.
        cpus: cores of a job, and its threads.
        gpus: GPUs of a job; 0.1 lets ten share one.
        retries: how often a job that was lost is begun again.

    Raises:
        InputError: a number that makes no sense, or Ray is not installed.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus: float = 1.0,
        gpus: float = 0.0,
        retries: int = 3,
    ) -> None:
        if not 0 < cpus < math.inf or not 0 <= gpus < math.inf:
            raise InputError(
                f"a job of {cpus:g} cores and {gpus:g} GPUs is not possible; it needs more than 0 "
                "cores"
            )
        if gpus > 1 and gpus != int(gpus):
            raise InputError(f"{gpus:g} GPUs per job: above 1, Ray assigns only whole GPUs")
        self._address = address
        self._cpus, self._gpus, self._retries = cpus, gpus, retries
        self._ray = _import_ray()
        self._running: dict[Any, int] = {}
        self._connected = False

    def check(self) -> None:
        """Connect to the cluster, see what it has, and let go of it."""
        if self._address is not None or self._gpus:
            self._connect()
            self.stop()

    def start(self, jobs: int, report: BatchProgress) -> int:
        """Connect to the cluster, or start one."""
        self._report = report
        self._connect()
        try:
            self._queue = self._progress_queue()
        except BaseException:
            self.stop()
            raise
        options: dict[str, Any] = {
            "num_cpus": self._cpus,
            "num_gpus": self._gpus,
            "max_retries": self._retries,
        }
        self._execute = self._ray.remote(**options)(_execute_on_node)
        return min(jobs, self._slots())

    def has_room(self, memory: int) -> bool:
        """Whether the cluster, as large as it is now, has room; Ray itself minds the memory."""
        return not self._running or len(self._running) < self._slots()

    def submit(self, job: Job) -> None:
        """Hand the job to the cluster."""
        options = {"memory": job.memory} if job.memory else {}
        threads = max(1, int(self._cpus))
        packed = PackedJob.of(job, self._ray.cloudpickle.dumps)
        place = str(job.directory)
        reference = self._execute.options(**options).remote(packed, place, self._queue, threads)
        self._running[reference] = job.memory

    def wait(self, seconds: float) -> list[list[BatchEnd]]:
        """Report progress from all nodes; give the jobs that are over."""
        if not self._running:
            return []
        finished, _ = self._ray.wait(list(self._running), timeout=seconds)
        self._report_progress()
        ends = []
        for reference in finished:
            del self._running[reference]
            try:
                ends.append(self._ray.get(reference))
            except self._ray.exceptions.RayError as error:
                reason = str(error).strip().splitlines()[0]
                raise JobError(
                    f"a job was lost {self._retries + 1} times: {reason}; what was finished is "
                    "kept, the same command continues from there"
                ) from None
        return ends

    def stop(self) -> None:
        """Cancel what is still running and let go of the cluster."""
        if not self._connected:
            return
        for reference in self._running:
            with contextlib.suppress(Exception):
                self._ray.cancel(reference, force=True)
        self._running = {}
        self._ray.shutdown()
        self._connected = False

    def _connect(self) -> None:
        if self._ray.is_initialized():
            raise InputError("this process is connected to a Ray cluster already; shut it down")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if self._address is not None:
            _require_reachable(self._address)
        try:
            self._ray.init(
                address=self._address or "local",
                log_to_driver=False,
                logging_level="error",
                **({} if self._address else {"include_dashboard": False}),
            )
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = f" at {self._address}" if self._address else ""
            reason = str(error).strip().splitlines()[0] if str(error).strip() else "no answer"
            raise InputError(
                f"no Ray cluster{where} can be used: {reason}; start one with `ray start --head`, "
                "or leave the address out"
            ) from None
        self._connected = True
        self._slots_known_until = 0.0
        try:
            self._require_resources()
        except InputError:
            self.stop()
            raise

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _require_resources(self) -> None:
        for name, need in (("CPU", self._cpus), ("GPU", self._gpus)):
            most = max((node.get(name, 0.0) for node in self._nodes()), default=0.0)
            if need > most:
                raise InputError(
                    f"each job asks for {need:g} {name}s, and the largest node of the cluster has "
                    f"{most:g}; {f'ask for {most:g} or fewer' if most else 'ask for none'}"
                )

    def _slots(self) -> int:
        """How many jobs the nodes that are alive have room for; asked for again now and then."""
        now = time.monotonic()
        if now >= self._slots_known_until:
            self._slots_known_until = now + _RESOURCES_SECONDS
            self._slots_known = max(1, sum(self._slots_of(node) for node in self._nodes()))
        return self._slots_known

    def _slots_of(self, node: dict[str, float]) -> int:
        slots = _how_often(self._cpus, node.get("CPU", 0.0))
        if not self._gpus:
            return slots
        gpus = node.get("GPU", 0.0)
        on_gpus = _how_often(self._gpus, 1.0) * int(gpus) if self._gpus <= 1 else gpus / self._gpus
        return min(slots, int(on_gpus))

    def _progress_queue(self) -> Any:
        """A queue that lives on this node, which the sweep cannot outlive anyway."""
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = self._ray.get_runtime_context().get_node_id()
        placement = NodeAffinitySchedulingStrategy(here, soft=True)
        return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": placement})

    def _report_progress(self) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            for index, share in self._queue.get_nowait_batch(self._queue.qsize()):
                self._report(index, share)


def _how_often(part: float, whole: float) -> int:
    """How often `part` fits into `whole`, thirds into 1 three times."""
    return int(whole / part + 1e-9)


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise InputError("the ray executor needs Ray: pip install 'keelback[ray]'") from None
    return ray


def _require_reachable(address: str) -> None:
    """Raise at once where nothing listens; Ray itself would wait for minutes."""
    if address in ("auto", "local"):
        return
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise InputError(f"{address!r} is no address of a Ray cluster; write HOST:PORT or auto")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"no Ray cluster answers at {address}: {error.strerror or error}; start one with "
            "`ray start --head`, or leave the address out"
        ) from None


def _execute_on_node(packed: PackedJob, place: str, queue: Any, threads: int) -> list[BatchEnd]:
    import torch

    torch.set_num_threads(threads)
    if not Path(place).is_dir():
        message = (
            f"{place} is not to be seen on node {socket.gethostname()}; a sweep on "
            "several nodes needs a store on a file system that they share"
        )
        return [BatchEnd(packed.first, "sweep failed", message)]

    def report(index: int, share: float) -> None:
        with contextlib.suppress(Exception):
            queue.put_nowait((index, share))

    return execute_packed(packed, report)
