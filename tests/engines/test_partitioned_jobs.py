"""`batch-imaging dag` on a real HTCondor and a real SLURM, to the end after a job has failed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from htcondor_server import HTCondor, running_htcondor
from slurm_server import output, running_slurm, wait_for

from batch_imaging.cli import main
from batch_imaging.io.measurement_set import write_measurement_set
from batch_imaging.parameters import load_parameters
from batch_imaging.pipelines.simulate import make_field, make_window

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

DEADLINE_S = 900
PROGRAM = Path(sys.prefix) / "bin" / "batch-imaging"
# Three parts; the second major cycle finds that it is the last of four.
SETTINGS = (
    *("imaging.npixel=128", "imaging.cellsize=0.001", "imaging.weighting=robust"),
    *("ical.nmajor=3", "ical.convergence=0.99"),
)
OPTIONS = ["--max-size=600kB", *(f"--set={setting}" for setting in SETTINGS)]
FLAKY = """\
#!/bin/sh
if [ "$*" = "unit subtract --cycle 1 --part 1" ] && [ ! -e {folder}/repaired ]; then
    echo "broken on purpose" >&2
    exit 3
fi
exec {program} "$@"
"""


def write_set(folder: Path) -> Path:
    settings = ["nfreqwin=1", "ntimes=3", "rmax=300", "simulation.phase_error=0"]
    field = make_field(load_parameters({}, settings))
    write_measurement_set(folder / "a.ms", make_window(0, field))
    return folder / "a.ms"


def write_flaky_program(path: Path, folder: Path | str) -> Path:
    """Write what fails in one of the parts until there is a file `repaired`."""
    path.write_text(FLAKY.format(program=PROGRAM, folder=folder))
    path.chmod(0o755)
    return path


def assert_stopped_by_failure(work: Path) -> None:
    assert (work / "residual-01-0000.npz").exists()
    assert not (work / "residual-01-0001.npz").exists()
    assert not (work / "restored.fits").exists()


def assert_images_of_uncut_data(one_set: Path, work: Path, here: Path) -> None:
    assert not (work / "residual-02.npz").exists()
    uncut = ["--max-size=1GB", *OPTIONS[1:], "--run", "--engine=serial"]
    assert main(["dag", str(one_set), "-o", str(here), *uncut]) == 0
    images = [fits.getdata(folder / "restored.fits") for folder in (here, work)]
    assert np.abs(images[0] - images[1]).max() < 2e-6 * images[0].max()


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    with running_htcondor(tmp_path_factory.mktemp("htcondor")) as running:
        yield running


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with running_slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


def test_dag_is_resumed_from_its_rescue_dag(pool: HTCondor, tmp_path):
    one_set, work = write_set(pool.work), pool.work / "dag"
    write_flaky_program(pool.work / "flaky", "~imager")

    def shell(command):
        done = pool.run("sh", "-c", command, deadline_s=300)
        assert done.returncode == 0, done.stderr

    def submit_and_wait():
        shell("cd dag && condor_submit_dag main.dag")
        wait_for(lambda: not pool.jobs(), DEADLINE_S)

    shell(f"{PROGRAM} dag a.ms -o dag --program flaky {' '.join(OPTIONS)}")
    submit_and_wait()
    assert (work / "main.dag.rescue001").exists()
    assert "broken on purpose" in (work / "logs" / "subtract-01-0001.err").read_text()
    assert_stopped_by_failure(work)

    finished = (work / "residual-01-0000.npz").stat().st_mtime_ns
    (pool.work / "repaired").touch()
    submit_and_wait()
    assert (work / "residual-01-0000.npz").stat().st_mtime_ns == finished
    assert not (work / "cycle-02.dag.dagman.out").exists()
    assert_images_of_uncut_data(one_set, work, tmp_path)


def test_slurm_arrays_are_finished_by_submitting_again(slurm, tmp_path):
    one_set, work, here = write_set(tmp_path), tmp_path / "work", tmp_path / "here"
    program = write_flaky_program(tmp_path / "flaky", tmp_path)
    arguments = ["dag", str(one_set), "-o", str(work), *OPTIONS, "--virtual"]
    assert main([*arguments, "--slurm", "--program", str(program)]) == 0

    def submit_and_wait():
        output(slurm, str(work / "submit.sh"), "--time=20")
        wait_for(lambda: not output(slurm, "squeue", "--noheader"), DEADLINE_S)

    submit_and_wait()
    assert_stopped_by_failure(work)
    finished = (work / "residual-01-0000.npz").stat().st_mtime_ns
    (tmp_path / "repaired").touch()
    submit_and_wait()
    assert (work / "residual-01-0000.npz").stat().st_mtime_ns == finished
    assert_images_of_uncut_data(one_set, work, here)


def test_a_submission_that_fails_leaves_no_jobs(slurm, tmp_path):
    one_set, work = write_set(tmp_path), tmp_path / "work"
    assert main(["dag", str(one_set), *OPTIONS, "-o", str(work), "--slurm"]) == 0
    (work / "slurm" / "deconvolve-00.sbatch").unlink()
    with pytest.raises(subprocess.CalledProcessError):
        output(slurm, str(work / "submit.sh"), "--hold")
    wait_for(lambda: not output(slurm, "squeue", "--noheader"))
