"""`batch-imaging image` as a process that is killed again and again, and at last a worker of it."""

import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest
from line_observation import simulate

pytestmark = [pytest.mark.long, pytest.mark.timeout(500)]

DEADLINE_S = 100


@contextmanager
def imaging(path, folder, workers=1):
    """Run the command as a process that does not outlive the block."""
    command = [sys.executable, "-m", "batch_imaging", "image", path, "-o", folder, "--quiet"]
    command += ["--npixel", 96, "--niter", 300, "--workers", workers]
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait(DEADLINE_S)


def wait_for_lines(process, journal, count):
    deadline = time.monotonic() + DEADLINE_S
    while not journal.exists() or journal.read_text().count("\n") < count:
        assert process.poll() is None, "it ended before"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill_a_worker(process):
    """Kill a worker of the process: a grandchild that runs Dask's code, below its nanny."""
    next(
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "spawn_main" in " ".join(child.cmdline())
    ).kill()


def planes_of(journal):
    lines = journal.read_text().splitlines()
    return [line for line in lines if '"stage":"image"' in line]


def test_killed_again_and_again_the_bytes_are_the_same(tmp_path):
    path = simulate(tmp_path / "a.ms")
    whole, part = tmp_path / "whole", tmp_path / "part"
    with imaging(path, whole) as process:
        assert process.wait(DEADLINE_S) == 0
    journal = part / "journal.jsonl"
    part.mkdir()
    begun = (whole / "journal.jsonl").read_text().splitlines(keepends=True)[0]
    journal.write_text(begun)  # the date that stands in the headers
    for count in (2, 5, 8):
        with imaging(path, part) as process:
            wait_for_lines(process, journal, count)
    with imaging(path, part, workers=2) as process:
        wait_for_lines(process, journal, 9)
        kill_a_worker(process)
        assert process.wait(DEADLINE_S) == 0
    assert len(planes_of(journal)) == 12, "no plane that was done is made again"
    right, found = (
        {cube.name: cube.read_bytes() for cube in folder.glob("*.fits")} for folder in (whole, part)
    )
    assert found == right
    assert not list(part.glob("*.partial"))
