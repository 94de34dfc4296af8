"""Workers on a real SLURM: what runs, what is lost on the way, what never comes, what stays."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from slurm_server import output, running_slurm, wait_for

from batch_imaging.errors import ClusterStartTimeout, EngineError
from batch_imaging.execution.engines import open_executor
from batch_imaging.parameters import Engine

pytestmark = pytest.mark.long

SMALL = {
    "n_workers": 2,
    "nfreqwin": 2,
    "ntimes": 1,
    "rmax": 300.0,
    "imaging": {"npixel": 128, "cellsize": 0.001},
    "ical": {"nmajor": 2},
    "engine": {"interface": "lo", "walltime": "00:10:00", "deadline": 60},
}
RESTORED = "buff-pb-local-img/ska_pipeline_ical_restored.fits"
ENGINE = Engine(name="slurm", interface="lo", memory="300Mi", deadline=60)
GIB = 2**30


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with running_slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


@pytest.fixture
def here(slurm, tmp_path, monkeypatch):
    """A folder of its own, from which jobs are submitted; in the end the queue must be empty."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, slurm[name])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.json").write_text(json.dumps(SMALL))
    yield tmp_path
    wait_for(lambda: not queue(), 15)
    assert not list(tmp_path.glob(".batch-imaging-*"))


def queue(*options: str) -> list[str]:
    return output(dict(os.environ), "squeue", "--noheader", "--format=%A", *options).split()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "batch_imaging", *arguments]


def job_of_worker(_unit: int, seconds: float) -> str:
    time.sleep(seconds)
    return os.environ["SLURM_JOB_ID"]


def shipped(function):
    """Return a function that workers, who cannot import this file, get by its value."""
    return type(function)(function.__code__, {"os": os, "time": time}, "<locals>")


@pytest.mark.timeout(240)
def test_a_run_gives_the_images_of_a_serial_one_as_jobs_and_inside_a_job(here):
    for engine in ("serial", "slurm"):
        subprocess.run(
            command("run", "params.json", "-o", engine, "--engine", engine), check=True, timeout=100
        )
    subprocess.run(
        command("submit", "params.json", "-o", "job", "--engine", "slurm"), check=True, timeout=60
    )
    wait_for(lambda: not queue(), 100)
    images = {name: fits.getdata(here / name / RESTORED) for name in ("serial", "slurm", "job")}
    for name in ("slurm", "job"):
        np.testing.assert_allclose(images[name], images["serial"], rtol=1e-4, atol=1e-6)


@pytest.mark.timeout(120)
def test_a_job_that_is_cancelled_in_the_middle_is_replaced(here):
    with open_executor(ENGINE, 2, GIB) as executor:
        before = set(queue())
        results = executor.map(shipped(job_of_worker), range(12), 1.0)
        found = [next(results)]
        subprocess.run(["scancel", found[0]], check=True)
        found += results
        wait_for(lambda: len(queue("--states=RUNNING")) == 2)
        assert len(found) == 12
        assert found[0] not in queue("--states=RUNNING")
        assert before != set(queue())


@pytest.mark.timeout(180)
def test_workers_retire_before_the_walltime_and_work_goes_on(here):
    wanted = ENGINE.model_copy(update={"walltime": "00:01:00"})
    with open_executor(wanted, 2, GIB) as executor:
        jobs = set(executor.map(shipped(job_of_worker), range(24), 4.0))
    assert len(jobs) > 2
    assert "TIMEOUT" not in (Path(os.environ["SLURM_CONF"]).parent / "jobs.log").read_text()


def test_more_memory_than_any_node_has_is_refused_in_words_of_slurm(here):
    wanted = ENGINE.model_copy(update={"memory": "100Gi"})
    with (
        pytest.raises(EngineError, match="Requested node configuration is not available"),
        open_executor(wanted, 2, GIB),
    ):
        pass


def test_a_full_node_is_named_when_the_wait_is_over(here):
    wanted = ENGINE.model_copy(update={"memory": "3000Mi", "deadline": 12.0})
    with (
        pytest.raises(
            ClusterStartTimeout, match=r"1 of 2 .* within .*: jobs: .*1 pending.*Resources"
        ),
        open_executor(wanted, 2, GIB),
    ):
        pass


@pytest.mark.timeout(120)
def test_ctrl_c_leaves_no_job(here):
    process = subprocess.Popen(
        command("run", "params.json", "-o", "out", "--engine", "slurm"),
        # A shell in the background has its children ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        wait_for(lambda: len(queue("--states=RUNNING")) == 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 128 + signal.SIGINT
    finally:
        process.kill()
        process.wait()
