"""Workers on a real HTCondor, in a chroot of its own."""

import json
import subprocess
import sys

import pytest
from htcondor_server import running_htcondor
from slurm_server import wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(240)]

SMALL = {
    "n_workers": 2,
    "nfreqwin": 2,
    "ntimes": 1,
    "rmax": 300.0,
    "imaging": {"npixel": 128, "cellsize": 0.001},
    "ical": {"nmajor": 2},
    "engine": {"interface": "lo", "walltime": "00:10:00", "deadline": 90, "disk": "200Mi"},
}
RUN = (sys.executable, "-m", "batch_imaging", "run", "params.json", "--engine", "htcondor")
REPORT = "buff-pb-local-img/report/index.html"


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with running_htcondor(tmp_path_factory.mktemp("htcondor")) as pool:
        (pool.work / "params.json").write_text(json.dumps(SMALL))
        yield pool
        wait_for(lambda: not pool.jobs())
        assert not list(pool.work.glob(".batch-imaging-*"))


def test_a_run_survives_the_removal_of_a_job(pool):
    process = subprocess.Popen(pool.command(*RUN, "-o", "out"), stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: pool.jobs().split()[1::2] == ["2", "2"], 60)
        pool.run("condor_rm", pool.jobs().split()[0])
        _, said = process.communicate(timeout=150)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert (pool.work / "out" / REPORT).exists()


def test_a_worker_that_no_machine_can_hold_is_explained(pool):
    done = pool.run(
        *RUN, "-o", "large", "--set", "engine.memory=900Gi", "--set", "engine.deadline=15"
    )
    assert done.returncode == 4
    assert "jobs: 2 idle" in done.stderr
    assert "Memory" in done.stderr


def test_a_submitted_run_is_one_job(pool):
    submit = (*RUN[:3], "submit", "params.json", "-o", "job", "--engine", "htcondor")
    done = pool.run(*submit)
    assert done.returncode == 0, done.stderr
    wait_for(lambda: not pool.jobs(), 120)
    assert (pool.work / "job" / REPORT).exists()
