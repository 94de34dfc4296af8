"""How fast a real control system on this machine is, empty and with 500 finished blocks."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from batch_imaging.control.config import Config, Follower, View
from batch_imaging.control.config.entities import (
    ProcessingBlock,
    ProcessingBlockState,
    Status,
    WorkflowName,
)
from batch_imaging.control.standalone.folder import Folder
from batch_imaging.control.standalone.system import System
from batch_imaging.errors import ConfigCollision
from benchmarks.table import Measurement, Table, tabulate

FINISHED_BLOCKS = 500
DEADLINE_S = 60.0
TINY = {
    "n_workers": 1,
    "nfreqwin": 1,
    "ntimes": 1,
    "rmax": 200.0,
    "imaging": {"npixel": 128, "cellsize": 0.002},
}


def benchmark_control(quick: bool) -> list[Table]:
    """Measure commands, releases, transactions and races."""
    repeats = 2 if quick else 11
    with _control_system() as config:
        empty = _latencies(config, repeats)
        races = [*_claim_race(config), *_interleaved_increments(config)]
        _create_finished_blocks(config, FINISHED_BLOCKS)
        full = _latencies(config, repeats)
    goals = {"AssignResources to STARTING": 0.5, "dependency FINISHED to RUNNING": 1.0}
    rows = [
        Measurement(f"{what}, {blocks} blocks", seconds, "s", goal=goals.get(what, 0.005))
        for blocks, latencies in (("no other", empty), (FINISHED_BLOCKS, full))
        for what, seconds in latencies.items()
    ]
    growth = [
        Measurement(f"{what}: times slower with {FINISHED_BLOCKS}", full[what] / empty[what], "", 2)
        for what in empty
    ]
    note = f"Medians of {repeats} scheduling blocks and 200 transactions."
    return [tabulate("Control system", [*rows, *growth, *races], "–", note)]


@contextmanager
def _control_system() -> Iterator[Config]:
    with tempfile.TemporaryDirectory(prefix="batch-imaging-bench-") as folder:
        program = [sys.executable, "-m", "batch_imaging"]
        subprocess.run([*program, "up", "--folder", folder], check=True, stdout=subprocess.DEVNULL)
        try:
            system = System.of(Folder(Path(folder)))
            assert system
            os.environ["TANGO_HOST"] = system.exports["TANGO_HOST"]
            with system.config() as config:
                yield config
        finally:
            subprocess.run([*program, "down", "--folder", folder], check=True)


def _latencies(config: Config, repeats: int) -> dict[str, float]:
    """Return medians, in seconds."""
    with config.follow() as follower:
        sessions = [_session(config, follower) for _ in range(repeats)]
    starting, running = zip(*sessions, strict=True)
    return {
        "AssignResources to STARTING": statistics.median(starting),
        "dependency FINISHED to RUNNING": statistics.median(running),
        "transaction on a state": _transaction_s(config),
    }


def _session(config: Config, follower: Follower) -> tuple[float, float]:
    """Assign and release a scheduling block; return the seconds that the batch block took."""
    import tango

    stamp = time.time_ns() // 1_000_000
    sbi_id, realtime, batch = f"sbi-{stamp}", f"pb-bench-{stamp}-0", f"pb-bench-{stamp}-1"
    request = {
        "id": sbi_id,
        "max_length": 60.0,
        "scan_types": [{"id": "science"}],
        "processing_blocks": [
            {
                "id": realtime,
                "workflow": {"type": "realtime", "id": "test_realtime", "version": "0.2.0"},
                "parameters": {},
            },
            {
                "id": batch,
                "workflow": {"type": "batch", "id": "batch_imaging", "version": "0.1.0"},
                "parameters": TINY,
                "dependencies": [{"pb_id": realtime, "type": ["none"]}],
            },
        ],
    }
    device = tango.DeviceProxy("mid_sdp/elt/subarray_1")
    begin = time.monotonic()
    device.AssignResources(json.dumps(request))
    starting_s = _wait(follower, lambda view: _status(view, batch) is not None) - begin
    _wait(follower, lambda view: _status(view, realtime) == Status.RUNNING)
    _wait(follower, lambda view: _status(view, batch) == Status.WAITING)
    device.ReleaseResources()
    finished = _wait(follower, lambda view: _status(view, realtime) == Status.FINISHED)
    running_s = _wait(follower, lambda view: _status(view, batch) == Status.RUNNING) - finished
    for txn in config.txn():
        state = txn.get_processing_block_state(batch)
        if state and not state.status.ended:
            update = {"status": Status.CANCELLED, "reason": "the benchmark has seen enough"}
            txn.update_processing_block_state(batch, state.model_copy(update=update))
    _wait(follower, lambda view: view.get_processing_block_owner(batch) is None)
    return starting_s, running_s


def _status(view: View, pb_id: str) -> Status | None:
    state = view.get_processing_block_state(pb_id)
    return state.status if state else None


def _wait(follower: Follower, condition: Callable[[View], bool]) -> float:
    """Return the time at which a condition was seen to hold, on the monotonic clock."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition(follower.view):
        if time.monotonic() > deadline:
            raise TimeoutError("the control system does not get there; see its logs")
        follower.wait(1.0)
    return time.monotonic()


def _transaction_s(config: Config) -> float:
    """Return the median time of a transaction that reads a state and writes it."""
    path = f"/bench/{time.time_ns()}"
    for txn in config.txn():
        txn.raw.create(path, {"n": 0})
    times_s = []
    for _ in range(200):
        begin = time.perf_counter()
        for txn in config.txn():
            txn.raw.update(path, {"n": (txn.raw.get(path) or {})["n"] + 1})
        times_s.append(time.perf_counter() - begin)
    return statistics.median(times_s)


def _create_finished_blocks(config: Config, count: int) -> None:
    name = WorkflowName(type="batch", id="batch_imaging", version="0.1.0")
    for number in range(count):
        pb_id = f"pb-old-20200523-{number:05d}"
        for txn in config.txn():
            txn.create_processing_block(ProcessingBlock(id=pb_id, sbi_id=None, workflow=name))
            txn.create_processing_block_state(
                pb_id, ProcessingBlockState(status=Status.FINISHED, resources_available=True)
            )


def _claim_race(config: Config, racers: int = 20) -> Iterator[Measurement]:
    """Let clients claim one block at the same moment."""
    path = f"/bench-race/{time.time_ns()}"
    barrier = threading.Barrier(racers)

    def claim(racer: int) -> int:
        barrier.wait()
        with suppress(ConfigCollision):
            for txn in config.txn():
                txn.raw.create(path, {"racer": racer}, config.client_lease)
            return 1
        return 0

    with ThreadPoolExecutor(racers) as pool:
        winners = sum(pool.map(claim, range(racers)))
    yield Measurement(f"winners of {racers} claims at once", winners, "", 1)


def _interleaved_increments(config: Config, increments: int = 200) -> Iterator[Measurement]:
    """Let two clients add to one number."""
    path = f"/bench-count/{time.time_ns()}"
    for txn in config.txn():
        txn.raw.create(path, {"n": 0})

    def increment(_: int) -> None:
        for txn in config.txn():
            txn.raw.update(path, {"n": (txn.raw.get(path) or {})["n"] + 1})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(increment, range(increments)))
    for txn in config.txn():
        lost = increments - (txn.raw.get(path) or {})["n"]
    yield Measurement(f"lost of {increments} increments by two clients", lost, "", 0)
