"""The command line from end to end, as a user types it, on a small field."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import psutil
import pytest
import yaml
from astropy.io import fits

pytestmark = pytest.mark.integration

SMALL = {
    "n_workers": 2,
    "nfreqwin": 3,
    "ntimes": 2,
    "rmax": 300.0,
    "buffer_vis": "buff-vis",
    "buffer_img": "buff-img",
    "imaging": {"npixel": 256, "cellsize": 0.001},
}
ORIGINAL_LINES = (
    "INFO:batch_imaging:Running simulation pipeline",
    "INFO:batch_imaging:Running ICAL pipeline",
    "INFO:batch_imaging:Running spectral imaging pipeline",
    "INFO:batch_imaging:Finished processing",
)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "batch_imaging", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=100, check=False
    )


def running_in_group(group: int) -> list[psutil.Process]:
    """Return the live processes of a process group; those that nobody reaped are not alive."""
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def assert_nobody_runs(group: int) -> None:
    """A worker that was being started in the last moment ends itself when it misses its parent."""
    deadline = time.monotonic() + 20
    while running := running_in_group(group):
        assert time.monotonic() < deadline, running
        time.sleep(0.1)


@pytest.fixture(scope="module")
def parameters(tmp_path_factory):
    path = tmp_path_factory.mktemp("parameters") / "small.json"
    path.write_text(json.dumps(SMALL))
    return path


@pytest.fixture(scope="module")
def finished(parameters, tmp_path_factory):
    output = tmp_path_factory.mktemp("output")
    done = run("run", parameters, "--output", output)
    assert done.returncode == 0, done.stderr
    return output, done


def test_log_reads_like_the_original(finished):
    _, done = finished
    lines = [line for line in done.stderr.splitlines() if line in ORIGINAL_LINES]
    assert tuple(lines) == ORIGINAL_LINES
    assert "distributed" not in done.stderr


def test_the_products_that_are_named_are_there(finished):
    output, done = finished
    products = [Path(line) for line in done.stdout.splitlines()]
    assert products[-1] == output / "buff-img" / "report" / "index.html"
    assert all(product.exists() for product in products)
    first = [f"ska_pipeline_simulation_vislist_{v}.ms" for v in range(3)]
    assert [product.name for product in products[:3]] == first
    assert products[3] == output / "buff-vis" / "ska_pipeline_simulation_sky.csv"
    named = {product.name for product in products}
    for name in ("deconvolved", "residual", "restored"):
        assert f"ska_pipeline_ical_{name}.fits" in named
        with fits.open(output / "buff-img" / f"ska_pipeline_ical_{name}_cube.fits") as hdus:
            assert hdus[0].data.shape == (1, 3, 256, 256)
    sets = sorted(path.name for path in (output / "buff-vis").glob("*.ms"))
    assert sets == [f"ska_pipeline_simulation_vislist_{v}.ms" for v in range(3)]
    assert not list(output.rglob("*.partial"))


def test_metadata_says_done(finished):
    output, _ = finished
    metadata = yaml.safe_load((output / "buff-img" / "ska-data-product.yaml").read_text())
    assert {entry["status"] for entry in metadata["files"]} == {"done"}
    provenance = json.loads((output / "buff-img" / "provenance.json").read_text())
    assert provenance["parameters"]["nfreqwin"] == 3


def test_sets_of_an_earlier_run_are_imaged_without_a_simulation(finished, parameters, tmp_path):
    output, _ = finished
    options = [f"--measurement-set={path}" for path in sorted((output / "buff-vis").glob("*.ms"))]
    options += ["--engine=serial", "--workers=2000"]  # one process needs no memory for so many
    done = run("run", parameters, "-o", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert ORIGINAL_LINES[0] not in done.stderr
    assert ".ms" not in done.stdout
    provenance = json.loads((tmp_path / "buff-img" / "provenance.json").read_text())
    assert (provenance["engine"], provenance["n_workers"]) == ("serial", 1)
    simulated = json.loads((output / "buff-img" / "provenance.json").read_text())
    assert provenance["parameter_hash"] == simulated["parameter_hash"]
    name = "ska_pipeline_ical_restored.fits"
    again = fits.getdata(tmp_path / "buff-img" / name)
    first = fits.getdata(output / "buff-img" / name)
    assert abs(again - first).max() < 1e-6 * first.max()


def test_ska_log_goes_to_standard_error(parameters, tmp_path):
    done = run("run", parameters, "-o", tmp_path, "--log-format", "ska", "--set", "ntimes=0")
    assert done.returncode == 2
    assert done.stderr == "error: ntimes = 0: must be an integer from 1 to 100000\n"
    assert not list(tmp_path.iterdir())


def test_a_flagged_set_is_refused_in_one_line(parameters, tmp_path, shared_data):
    with zipfile.ZipFile(shared_data / "askap-racs-0635-31-beam0.ms.zip") as archive:
        archive.extractall(tmp_path)
    (flagged,) = tmp_path.glob("*.ms")
    done = run("run", parameters, "-o", tmp_path / "out", "-q", "--measurement-set", flagged)
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {flagged}: all UVW are zero")


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        ("--set=simulation.sky=no/sky.csv", 3, "no/sky.csv: cannot be read"),
        ("--set=imaging.npixel=60000", 6, "imaging.npixel = 60000: 2 workers need about"),
        ("--measurement-set=no/such.ms", 3, "no/such.ms"),
    ],
)
def test_what_cannot_work_is_refused_before_a_folder_is_made(
    parameters, tmp_path, option, code, message
):
    done = run("run", parameters, "-o", tmp_path / "out", "--set=imaging.cellsize=1e-5", option)
    assert done.returncode == code
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_leaves_nothing_half_written_and_nobody_running(parameters, tmp_path):
    process = subprocess.Popen(
        command("run", parameters, "-o", tmp_path, "--set", "ntimes=20"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "Running" in line:
            break
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not list(tmp_path.rglob("*.partial"))
    assert_nobody_runs(process.pid)
    provenance = json.loads((tmp_path / "buff-img" / "provenance.json").read_text())
    assert provenance["error"] == "stopped by a signal"
    metadata = yaml.safe_load((tmp_path / "buff-img" / "ska-data-product.yaml").read_text())
    assert "working" not in {entry["status"] for entry in metadata["files"]}
