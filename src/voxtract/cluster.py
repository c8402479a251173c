"""The cases of a run spread over a Dask cluster: processes, machines, GPUs (https://distributed.dask.org).

Each case is a task. What travels is the case (paths, not arrays), the settings, and back the counts and checksums; the
files are written by the worker, so the output folder and the inputs must be there under the same path on every
machine. The journal is kept here. A task whose worker dies is done again elsewhere: files appear only when they are
complete, and a case that is done twice leaves the same bytes.
"""

from __future__ import annotations

import atexit
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from threading import Lock
from typing import Any
from uuid import uuid4

from voxtract.backend import select
from voxtract.crew import Crew, default_memory_limit, default_workers
from voxtract.desk import Desk
from voxtract.errors import BackendUnavailable, InvalidInput, VoxtractError
from voxtract.job import Job, Outcome, files, names
from voxtract.journal import stamp
from voxtract.model import Case
from voxtract.report import CaseResult
from voxtract.settings import Settings
from voxtract.storage import Place, Remote
from voxtract.write.files import Staging
from voxtract.write.remote import staging as staging_of

RETRIES = 2  # of a task, beside those that Dask gives to tasks whose worker died
_AHEAD = 4  # tasks handed out for each thread of the cluster: it never waits, and the scheduler holds few
_TIMEOUT_S = 10
_LOOKERS = 16  # cases that are looked for in a store at once


@contextmanager
def connect(where: str) -> Iterator[Any]:
    """Connect to a cluster, or start one on this machine for the length of the block.

    Parameters
    ----------
    where : str
        Address of a scheduler (``tcp://host:8786``), ``"local"`` for a process on each core, or ``"cuda"`` for a
        process on each GPU of this machine (needs the package dask-cuda).

    Raises
    ------
    BackendUnavailable
        The packages are not installed, or nobody answers at the address.
    """
    distributed = _distributed()
    if where == "local":
        with (
            distributed.LocalCluster(
                n_workers=default_workers(), threads_per_worker=1, dashboard_address=":0"
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
        return
    if where == "cuda":
        try:
            from dask_cuda import LocalCUDACluster
        except ImportError as why:
            raise BackendUnavailable(
                "--dask cuda needs the package dask-cuda, which is not installed; pip install dask-cuda"
            ) from why
        with LocalCUDACluster() as cluster, distributed.Client(cluster) as client:
            yield client
        return
    try:
        client = distributed.Client(where, timeout=_TIMEOUT_S)
    except (OSError, TimeoutError, ValueError) as why:
        raise BackendUnavailable(
            f"{where}: no Dask scheduler answers there ({why or type(why).__name__}); check the address and that "
            "`dask scheduler` runs, or use 'local'"
        ) from why
    with client:
        yield client


def check(client: Any, backend: str) -> tuple[str, int]:
    """Look at the workers of a cluster.

    Returns
    -------
    names of the devices they compute on, number of their threads

    Raises
    ------
    BackendUnavailable
        There is none, one would write other files because it has another version, or one lacks the device.
    """
    with _told():
        try:
            found = client.run(_about, backend)
            threads = sum(client.nthreads().values())
        except ModuleNotFoundError as why:
            raise BackendUnavailable(
                f"a worker of the cluster lacks {why.name!r}; install voxtract {_version()} on every machine"
            ) from why
    if not found:
        raise BackendUnavailable("the Dask cluster has no worker; start some with `dask worker`")
    other = {address: number for address, (number, _) in found.items() if number != _version()}
    if other:
        address, number = min(other.items())
        more = f" (and {len(other) - 1} more workers)" if len(other) > 1 else ""
        raise BackendUnavailable(
            f"worker {address} has voxtract {number}, but {_version()} runs here{more}; "
            "install the same version on every machine"
        )
    return ", ".join(sorted({device for _, device in found.values()})), threads


def do_all(
    client: Any, cases: Sequence[Case], desk: Desk, output: Place, *, backend: str, memory_limit: int | None
) -> list[CaseResult]:
    """Have a cluster do all cases that are not done yet; results in their order.

    Parameters
    ----------
    client : distributed.Client
    cases : sequence of Case
    desk : Desk
    output : Path, or Remote for a URL
        The same folder on every machine.
    backend : {"auto", "cpu", "cuda"}
        Each worker chooses its own device.
    memory_limit : int, optional
        Bytes that the cases under way in one process may hold together.

    Raises
    ------
    BackendUnavailable
        The cluster was lost on the way.
    """
    if isinstance(output, Remote) and output.protocol == "memory":
        raise InvalidInput(f"{output}: each process of a cluster has a memory of its own; choose another output")
    results: dict[str, CaseResult] = {}
    todo: list[Case] = []
    with ThreadPoolExecutor(_LOOKERS if isinstance(output, Remote) else 1) as pool:
        found = list(pool.map(desk.earlier, cases))
    for case, earlier in zip(cases, found, strict=True):
        if earlier is None:
            todo.append(case)
        else:
            results[case.id] = earlier
    if todo:
        run = uuid4().hex
        noted = desk.journal is not None
        task = Task(run, output.resolve(), desk.settings, backend, memory_limit, noted, _version())
        with _told():
            try:
                for outcome in _outcomes(client, todo, desk, task):
                    results[outcome.result.id] = desk.end(outcome)
            finally:
                with suppress(OSError, TimeoutError, RuntimeError):
                    client.run(forget, run)
    return [results[case.id] for case in cases]


def _outcomes(client: Any, todo: Sequence[Case], desk: Desk, task: Task) -> Iterator[Outcome]:
    """What comes of each case, in the order in which they end."""
    threads = sum(client.nthreads().values())
    shared = client.scatter(task, broadcast=True, hash=False)
    cases = {f"voxtract-{task.run}-{case.id}": case for case in todo}
    waiting = iter(cases.items())

    def submit(key: str, case: Case) -> Any:
        desk.begin(case)
        part = desk.parts.get(case.id)
        return client.submit(do_one, shared, case, part, key=key, pure=False, retries=RETRIES)

    under_way = _distributed().as_completed([submit(*one) for one in islice(waiting, _AHEAD * threads)])
    for future in under_way:
        yield _outcome(future, desk.settings.needed(cases[future.key]))
        for one in islice(waiting, 1):
            under_way.add(submit(*one))
        future.release()


@contextmanager
def _told() -> Iterator[None]:
    """What Dask raises where the cluster is lost, in our words."""
    distributed = _distributed()
    try:
        yield
    except VoxtractError:
        raise
    except (OSError, TimeoutError, CancelledError, distributed.CancelledError, RuntimeError) as why:
        raise BackendUnavailable(
            f"the Dask cluster was lost ({str(why) or type(why).__name__}); what is complete stays: go on with "
            "resume=True (--resume)"
        ) from why


# --- what runs on a worker


@dataclass(frozen=True, slots=True)
class Task:
    """What is the same for all cases of a run; `run` tells it from others."""

    run: str
    output: Place
    settings: Settings
    backend: str
    memory_limit: int | None
    noted: bool
    version: str


_benches: dict[str, tuple[Crew, Staging, Job]] = {}  # of this process, by run
_guard = Lock()


def do_one(task: Task, case: Case, part: str | None) -> Outcome:
    """Do one case in this process."""
    if task.version != _version():
        error = InvalidInput(f"{case.id}: a worker has voxtract {_version()}, the run {task.version}; use one version")
        return Outcome(CaseResult(case.id, "failed", names(task.settings.needed(case)), error=error), [], None)
    try:
        crew, _, job = _bench(task)
        return crew.counted(job.do, case, part)
    except VoxtractError as error:  # no device, no room for the staging folder
        return Outcome(CaseResult(case.id, "failed", names(task.settings.needed(case)), error=error), [], None)


def forget(run: str) -> None:
    """Let go of what this process holds for a run."""
    with _guard:
        bench = _benches.pop(run, None)
    if bench is not None:
        crew, staging, _ = bench
        crew.close()
        staging.__exit__(None, None, None)


def _bench(task: Task) -> tuple[Crew, Staging, Job]:
    """What this process needs to work on cases of a run; made for its first case."""
    with _guard:
        if task.run not in _benches:
            workers, limit = _share_of_this_process()
            device = select(task.backend)
            crew = Crew(workers, limit if task.memory_limit is None else task.memory_limit)
            staging = staging_of(task.output).__enter__()
            _benches[task.run] = crew, staging, Job(task.settings, device, crew, staging, task.noted)
            atexit.register(forget, task.run)
        return _benches[task.run]


def _share_of_this_process() -> tuple[int, int]:
    """Threads and bytes that Dask grants to this worker."""
    worker = _distributed().get_worker()
    limit = worker.memory_manager.memory_limit
    return worker.state.nthreads, int(limit // 2) if limit and not math.isinf(limit) else default_memory_limit()


def _outcome(future: Any, case: Case) -> Outcome:
    """What came of a task; one that Dask has given up is a failed case."""
    if future.cancelled():
        raise CancelledError(future.key)
    why = future.exception()
    if why is None:
        outcome: Outcome = future.result()
        return outcome
    inputs = names(case)
    error = VoxtractError(
        f"{inputs[0]}: the cluster has given it up after several tries ({why}); look into the logs of its workers, "
        "perhaps they run out of memory"
    )
    return Outcome(CaseResult(case.id, "failed", inputs, error=error), stamp(files(case)), None)


def _about(backend: str) -> tuple[str, str]:
    """Version and device of this process."""
    return _version(), select(backend).name


def _version() -> str:
    return version("voxtract")


def _distributed() -> Any:
    try:
        import distributed
    except ImportError as why:
        raise BackendUnavailable(
            "a Dask cluster needs the package distributed, which is not installed; pip install 'voxtract[dask]'"
        ) from why
    return distributed
