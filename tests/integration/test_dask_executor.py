"""Units of work on real Dask workers: order, errors, dying workers, what the engine leaves."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import ducc0
import psutil
import pytest
from distributed import Client

from batch_imaging.errors import (
    ClusterStartTimeout,
    DataError,
    EngineError,
    ResourceError,
    WorkerLost,
)
from batch_imaging.execution.engines import local, open_executor
from batch_imaging.execution.engines.local import available_cores, local_executor
from batch_imaging.execution.executor import DaskExecutor, SerialExecutor

pytestmark = pytest.mark.integration
MEMORY_BYTES = 2**30


@pytest.fixture(scope="module")
def executor():
    with local_executor(2, MEMORY_BYTES) as dask_executor:
        yield dask_executor


def scale(unit, factor):
    return unit * factor


def fail_on_some(unit, folder):
    if unit in (3, 4):
        raise DataError(f"unit {unit} cannot be used")
    time.sleep(0.01)
    (folder / str(unit)).touch()
    return unit


def die_once(unit, folder):
    """Take the worker down the first time that unit 2 is done."""
    marker = folder / "died"
    if unit == 2 and not marker.exists():
        marker.touch()
        os._exit(1)
    return unit


def die_always(unit):
    if unit == 1:
        os._exit(1)
    return unit


def run_out_of_memory(unit):
    raise MemoryError(unit)


def measure_threads(unit):
    return os.getpid(), ducc0.misc.thread_pool_size(), os.environ.get("OMP_NUM_THREADS")


def mark(unit, folder):
    (folder / str(unit)).touch()
    time.sleep(DaskExecutor.TASK_S)  # so that no task has two
    return unit


@pytest.mark.parametrize("n_units", [0, 1, 3, 11])
def test_results_are_those_of_the_serial_executor_in_the_same_order(executor, n_units):
    units = [7 * k % 11 for k in range(n_units)]
    expected = list(SerialExecutor().map(scale, units, 3))
    assert list(executor.map(scale, units, 3)) == expected


def test_run_is_one_unit_of_all_arguments(executor):
    assert executor.run(scale, "ab", 2) == "abab"
    assert executor.run(os.getpid) != os.getpid()


def test_every_worker_has_the_threads_that_were_set(executor):
    seen = list(executor.map(measure_threads, range(4)))
    assert len({pid for pid, _, _ in seen}) == 2
    assert {size for _, size, _ in seen} == {executor.native_threads}
    assert executor.native_threads == max(1, available_cores() // 2)


def test_more_threads_than_dask_would_give_are_had(executor):
    # Workers start with OMP_NUM_THREADS=1, by which ducc0 sizes its pool.
    DaskExecutor(executor._client, 2, native_threads=3)
    try:
        assert {size for _, size, _ in executor.map(measure_threads, range(4))} == {3}
    finally:
        DaskExecutor(executor._client, 2, executor.native_threads)


def test_memory_is_recorded_for_each_worker(executor):
    pids = {pid for pid, _, _ in executor.map(measure_threads, range(4))}
    peaks = {int(name.split(":")[-1]): peak for name, peak in executor.peak_rss_bytes.items()}
    assert pids <= peaks.keys()
    assert all(2**20 < peaks[pid] < 2**40 for pid in pids)


def test_no_more_units_are_in_flight_than_allowed(executor, tmp_path):
    results = executor.map(mark, list(range(40)), tmp_path)
    limit = 2 * executor.TASKS_IN_FLIGHT_PER_WORKER
    for taken in range(1, 7):
        next(results)
        time.sleep(0.02)
        assert len(list(tmp_path.iterdir())) <= taken + limit
    results.close()


def test_short_units_go_several_together_and_the_first_error_is_the_same(executor, tmp_path):
    results = executor.map(fail_late, range(300), tmp_path)
    assert [next(results) for _ in range(250)] == list(range(250))
    with pytest.raises(DataError, match=r"^unit 250 cannot be used$"):
        next(results)
    with executor.log_to(tmp_path / "logs"):
        assert sum(executor.map(scale, range(300), 2)) == 300 * 299
    lines = "".join(log.read_text() for log in (tmp_path / "logs").iterdir()).splitlines()
    said = [line for line in lines if "unit:299,worker" in line]
    assert len([line for line in said if "| scale " in line]) == 2


def fail_late(unit, folder):
    if unit == 250:
        raise DataError(f"unit {unit} cannot be used")
    (folder / str(unit)).touch()
    return unit


def test_the_first_error_comes_as_it_was_raised_and_nothing_runs_on(executor, tmp_path):
    results = executor.map(fail_on_some, list(range(40)), tmp_path)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match=r"^unit 3 cannot be used$"):
        next(results)
    assert_idle(executor)
    assert not (tmp_path / "39").exists()
    assert list(executor.map(scale, [1, 2], 2)) == [2, 4]


def test_leaving_early_stops_the_rest(executor, tmp_path):
    for unit in executor.map(fail_on_some, list(range(10, 50)), tmp_path):
        if unit == 12:
            break
    assert_idle(executor)
    assert not (tmp_path / "49").exists()


def assert_idle(executor):
    """Wait a moment for the scheduler to forget what was cancelled."""
    deadline = time.monotonic() + 5
    while (left := executor._client.processing()) and any(left.values()):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.02)


def test_want_of_memory_is_a_resource_error(executor):
    with pytest.raises(ResourceError, match=r"run_out_of_memory\(5\): not enough memory"):
        list(executor.map(run_out_of_memory, [5]))


@pytest.fixture
def quiet_distributed():
    """Hide what distributed logs about the workers that these tests kill."""
    logger = logging.getLogger("distributed")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.mark.usefixtures("quiet_distributed")
def test_a_unit_whose_worker_died_is_done_again(executor, tmp_path):
    assert list(executor.map(die_once, list(range(6)), tmp_path)) == list(range(6))
    assert (tmp_path / "died").exists()


@pytest.mark.usefixtures("quiet_distributed")
def test_a_unit_that_kills_every_worker_is_named(executor):
    with pytest.raises(WorkerLost, match=r"^die_always\(1\): its worker died again and again"):
        list(executor.map(die_always, [0, 1, 2]))


@pytest.mark.usefixtures("quiet_distributed")
def test_successors_of_all_workers_do_the_work_with_the_same_threads_and_log(tmp_path):
    with local_executor(1, MEMORY_BYTES) as alone:
        DaskExecutor(alone._client, 1, native_threads=3)
        with alone.log_to(tmp_path):
            ((victim, threads, _),) = alone.map(measure_threads, [0])
            assert threads == 3
            os.kill(victim, signal.SIGKILL)
            seen = list(alone.map(measure_threads, range(3)))
    assert {pid for pid, _, _ in seen}.isdisjoint({victim})
    assert {size for _, size, _ in seen} == {3}
    (log,) = tmp_path.iterdir()
    assert log.read_text().count("measure_threads done") == 4


def test_a_unit_that_takes_too_long_is_given_up_and_the_workers_are_free_again():
    with local_executor(1, MEMORY_BYTES) as alone:
        with pytest.raises(
            EngineError, match=r"^sleep\(3600\): no Dask worker did it within 0.5 s"
        ):
            alone.run(time.sleep, 3600, deadline_s=0.5)
        alone.abandon(deadline_s=10)
        assert alone.run(scale, 3, 2, deadline_s=60) == 6


@pytest.mark.usefixtures("quiet_distributed")
def test_a_scheduler_that_is_gone_ends_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(DaskExecutor, "SCHEDULER_AWAY_S", 0.5)
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    file = tmp_path / "scheduler.json"
    options = ["--port", "0", "--no-dashboard", "--dashboard-address", "127.0.0.1:0"]
    scheduler = subprocess.Popen(
        [*command, *options, "--scheduler-file", str(file)], stderr=subprocess.DEVNULL
    )
    try:
        while not (file.exists() and file.read_text().endswith("}")):
            assert scheduler.poll() is None
            time.sleep(0.1)
        with Client(scheduler_file=str(file), timeout=1) as client:
            alone = DaskExecutor(client, 1, 1)
            killer = threading.Timer(0.5, scheduler.kill)
            killer.start()
            with pytest.raises(EngineError, match="the Dask scheduler went away"):
                alone.run(pow, 3, 2)
            with pytest.raises(EngineError, match="the Dask scheduler went away"):
                alone.abandon(deadline_s=10)
    finally:
        scheduler.kill()
        scheduler.wait()


# The engine


def descendants():
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder where the engine puts its own."""
    monkeypatch.setattr(local.tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("raises", [False, True])
def test_the_engine_leaves_no_process_and_no_folder(folder, raises):
    before = descendants()
    ending = pytest.raises(DataError, match="the body failed") if raises else nullcontext()
    with ending, open_executor("local", 1, MEMORY_BYTES) as executor:
        pid = executor.run(os.getpid)
        assert pid in descendants() - before
        assert len(list(folder.iterdir())) == 1
        if raises:
            raise DataError("the body failed")
    assert not psutil.pid_exists(pid)
    # multiprocessing's resource tracker serves this process until it ends.
    left = descendants() - before
    assert all("resource_tracker" in " ".join(psutil.Process(p).cmdline()) for p in left)
    assert list(folder.iterdir()) == []


def test_workers_that_do_not_come_in_time_are_counted(folder: Path):
    before = descendants()
    with (
        pytest.raises(ClusterStartTimeout, match="0 of 2 local Dask workers connected within"),
        local_executor(2, MEMORY_BYTES, deadline_s=1e-6),
    ):
        pass
    left = descendants() - before
    assert all("resource_tracker" in " ".join(psutil.Process(p).cmdline()) for p in left)
    assert list(folder.iterdir()) == []
