"""The Ray executor on real local clusters: the same numbers, lost nodes, shared GPUs, refusals."""

import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from probe_run import ProbeRun
from trivial_run import TrivialRun

from keelback.errors import InputError, JobError
from keelback.experiments._shared.presets import LENGTH_INDEPENDENCE, preset, selective_ssm_run
from keelback.sweeps import Run, Store, sweep
from keelback.sweeps.executor import ThisProcess
from keelback.sweeps.ray_cluster import RayExecutor

ray = pytest.importorskip("ray")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def quiet_ray() -> Iterator[None]:
    """Workers find this folder's runs; Ray phones nobody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@contextlib.contextmanager
def two_nodes() -> Iterator[Any]:
    """A head that executes nothing and two nodes: one core each, three pretended GPUs in all."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args=head)
    for gpus in (1, 2):
        made.add_node(num_cpus=1, num_gpus=gpus, object_store_memory=100 * 2**20)
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_killed_node_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    """A node dies while it executes; the other one takes its job up again."""
    log = tmp_path / "log"
    runs: list[Run] = [
        TrivialRun(number=n, batch=str(n % 2), seconds=0.4, log=str(log)) for n in range(20)
    ]
    killed: list[float] = []
    with two_nodes() as cluster:

        def kill_the_node(done: float, whole: float) -> None:
            if not killed and 4 <= done < whole:
                killed.append(done)
                own = ray.get_runtime_context().get_node_id()  # Any of this machine's.
                doomed = next(node for node in cluster.worker_nodes if node.node_id != own)
                cluster.remove_node(doomed, allow_graceful=False)

        results = sweep(
            runs,
            Store.create(tmp_path / "s"),
            executor=RayExecutor(cluster.address),
            on_progress=kill_the_node,
        )
    assert killed, "the node was killed while jobs were under way"
    assert [result.summary["double"] for result in results] == [2 * n for n in range(20)]
    counts = [log.read_text().split().count(str(n)) for n in range(20)]
    assert min(counts) == 1
    assert sum(counts) <= 21, "only what the node was executing is executed again"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_nodes() as made:
        yield made


def majority(seq_len: int, seed: int) -> Run:
    task = preset(LENGTH_INDEPENDENCE, "majority")
    return selective_ssm_run("majority", task, seq_len=seq_len, seed=seed, epochs=1)


def test_a_cluster_of_this_machine_gives_the_numbers_of_this_process(tmp_path: Path) -> None:
    runs = [majority(seq_len, seed) for seq_len in (4, 6) for seed in (1, 2)]
    seen: list[tuple[float, float]] = []
    by_ray = sweep(
        runs,
        Store.create(tmp_path / "ray"),
        executor=RayExecutor(),
        on_progress=lambda *done: seen.append(done),
    )
    assert not ray.is_initialized()
    assert seen[-1][0] == seen[-1][1]
    here = sweep(runs, Store.create(tmp_path / "here"), executor=ThisProcess())
    for one, other in zip(by_ray, here, strict=True):
        assert one.summary == other.summary
        assert one.history() == other.history()
        weights = [(run.folder / "model.safetensors").read_bytes() for run in (one, other)]
        assert weights[0] == weights[1]


def test_a_killed_process_is_started_again(tmp_path: Path, cluster: Any) -> None:
    store = Store.create(tmp_path)
    runs: list[Run] = [ProbeRun(number=n, seconds=0.2, weight=float(n)) for n in range(2)]
    runs.append(ProbeRun(number=9, seconds=8.0))
    killed: list[int] = []

    def kill_the_slow_one(done: float, whole: float) -> None:
        """A node may take long to begin what it was given."""
        deadline = time.monotonic() + 60
        while 1 <= done < whole and not killed and time.monotonic() < deadline:
            time.sleep(1.0)
            for process in processes_executing("_execute_on_node"):
                killed.append(process)
                os.kill(process, signal.SIGKILL)

    results = sweep(
        runs, store, executor=RayExecutor(cluster.address), on_progress=kill_the_slow_one
    )
    assert killed
    assert results[-1].summary["process"] not in killed


def processes_executing(name: str) -> list[int]:
    """Ray writes what a worker is doing into its command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                title = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if title.startswith(b"ray::") and name.encode() in title:
                found.append(int(folder.name))
    return found


def test_many_small_runs_share_a_gpu(tmp_path: Path, cluster: Any) -> None:
    """Four runs are under way at once on three GPUs: each waits for the three others."""
    executor = RayExecutor(cluster.address, cpus=0.25, gpus=0.5)
    runs: list[Run] = [ProbeRun(number=n, meet=str(tmp_path / "meeting")) for n in range(4)]
    results = sweep(runs, Store.create(tmp_path / "s"), executor=executor)
    assert all(run.summary["met"] for run in results)
    assert {run.summary["gpu"] for run in results} <= {"0", "1"}


def test_what_the_cluster_does_not_have_is_refused(tmp_path: Path, cluster: Any) -> None:
    runs: list[Run] = [TrivialRun(number=1)]
    for asked, complaint in (
        ({"gpus": 4.0}, "4 GPUs, and the largest node of the cluster has 2"),
        ({"cpus": 16.0}, "16 CPUs, and the largest node of the cluster has 1"),
    ):
        executor = RayExecutor(cluster.address, **asked)
        with pytest.raises(InputError, match=complaint):
            executor.check()
        with pytest.raises(InputError, match=complaint):
            sweep(runs, Store.create(tmp_path), executor=executor)
        assert not ray.is_initialized()


def test_a_run_that_kills_its_process_every_time_is_told(tmp_path: Path, cluster: Any) -> None:
    runs: list[Run] = [
        TrivialRun(number=1, batch="a"),
        TrivialRun(number=2, batch="a", fault="kill"),
    ]
    store = Store.create(tmp_path)
    with pytest.raises(JobError, match="a job was lost 2 times") as caught:
        sweep(runs, store, executor=RayExecutor(cluster.address, retries=1))
    assert "\n" not in str(caught.value)
    assert [run in store for run in runs] == [True, False]


def test_an_unreachable_cluster_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        started = time.monotonic()
        with pytest.raises(InputError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
            RayExecutor(f"127.0.0.1:{port}").check()
        assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"cpus": 0.0}, "more than 0 cores"),
        ({"gpus": -1.0}, "-1 GPUs"),
        ({"gpus": 1.5}, "whole ones only"),
    ],
)
def test_senseless_numbers_are_refused(settings: dict[str, float], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        RayExecutor(**settings)


@pytest.mark.parametrize("address", ["nonsense", "host:port", "ray://"])
def test_senseless_addresses_are_refused(address: str) -> None:
    with pytest.raises(InputError, match="no address of a Ray cluster"):
        RayExecutor(address).check()
