"""`batch-imaging subtract`: from the shell, on workers, killed on the way."""

import logging
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from casacore.tables import table

from batch_imaging.cli import main
from batch_imaging.io.measurement_set import read_measurement_set, write_measurement_set
from batch_imaging.io.source_list import write_source_list
from batch_imaging.model.direction import Direction, radec_from_lm
from batch_imaging.model.geometry import itrf_from_enu, station_uvw_m
from batch_imaging.model.ska_low import SKA1_LOW_CENTRE
from batch_imaging.model.sky import PolynomialSpectrum, SkyComponent, SkyModel
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility
from batch_imaging.pipelines import subtraction

pytestmark = pytest.mark.integration

SPEED_OF_LIGHT_M_S = 299_792_458.0
DEADLINE_S = 100
CENTRE = Direction.from_degrees(201.4, -30.5)
N_CHAN, N_TIMES, N_STATIONS = 64, 8, 16
FREQ_HZ = 150e6 + 5e3 * np.arange(N_CHAN)
LINE_CHAN, LINE_SIGMA, LINE_JY = 30.4, 2.0, 0.1
LINE_LM = (0.012, -0.02)
SOURCES = ((0.012, -0.02, 10.0), (-0.03, 0.01, 6.0), (0.002, 0.035, 3.0))
NOISE_JY = 0.02
LINE = LINE_JY * np.exp(-0.5 * ((np.arange(N_CHAN) - LINE_CHAN) / LINE_SIGMA) ** 2)


def waves(uvw_m, l, m):
    path_m = uvw_m @ np.array([l, m, np.sqrt(1 - l**2 - m**2) - 1])
    return np.exp(-2j * np.pi * np.outer(path_m, FREQ_HZ / SPEED_OF_LIGHT_M_S))


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """A set of a line under a continuum a hundred times as bright, and the list of the latter."""
    folder = tmp_path_factory.mktemp("observed")
    rng = np.random.default_rng(4)
    enu_m = rng.uniform(-300, 300, (N_STATIONS, 3)) * (1, 1, 0.01)
    itrf_m = itrf_from_enu(enu_m, SKA1_LOW_CENTRE)
    times = 59_025.0 * 86_400 + 900.0 * np.arange(N_TIMES)
    first, second = (a.astype(np.int32) for a in np.triu_indices(N_STATIONS, 1))
    stations_m = station_uvw_m(itrf_m, times, CENTRE)
    uvw_m = (stations_m[:, second] - stations_m[:, first]).reshape(-1, 3)
    components = []
    vis = waves(uvw_m, *LINE_LM) * LINE
    for k, (l, m, flux_jy) in enumerate(SOURCES):
        spectrum = PolynomialSpectrum(flux_jy, 150e6, (-0.8, 0.1), logarithmic=True)
        vis += waves(uvw_m, l, m) * spectrum.flux_jy(FREQ_HZ)
        ra_rad, dec_rad = radec_from_lm(l, m, CENTRE)
        components.append(SkyComponent(f"s{k}", float(ra_rad), float(dec_rad), spectrum))
    shape = (*vis.shape, 2)
    noise = NOISE_JY * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    block = Visibility(
        uvw_m=uvw_m,
        time_mjd_s=np.repeat(times, len(first)),
        antenna1=np.tile(first, N_TIMES),
        antenna2=np.tile(second, N_TIMES),
        vis=(vis[:, :, np.newaxis] + noise).astype(np.complex64),
        weight=np.full(shape, 1 / NOISE_JY**2, dtype=np.float32),
        freq_hz=FREQ_HZ,
        chan_width_hz=np.full(N_CHAN, 5e3),
        corr=("XX", "YY"),
        integration_s=10.0,
        phase_centre=CENTRE,
        stations=StationLayout(
            tuple(f"S{k}" for k in range(N_STATIONS)), itrf_m, np.full(N_STATIONS, 38.0), "T"
        ),
    )
    write_measurement_set(folder / "a.ms", block)
    write_source_list(folder / "sky.txt", SkyModel(tuple(components)))
    return folder


@pytest.fixture
def run(capsys):
    """Run the command in this process; return its exit code and what it says on both streams."""
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments):
        code = main(["subtract", *map(str, arguments)])
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, handler)
    root.handlers = handlers
    root.setLevel(level)


def assert_line_is_recovered(path, column):
    block = read_measurement_set(path, column=column)
    towards_line = block.vis.mean(axis=2) * waves(block.uvw_m, *LINE_LM).conj()
    spectrum = towards_line.real.mean(axis=0)
    near = np.abs(np.arange(N_CHAN) - LINE_CHAN) < 5 * LINE_SIGMA
    noise_jy = NOISE_JY / np.sqrt(2 * block.n_rows)
    assert spectrum[~near].std() < 1.5 * noise_jy
    assert abs(spectrum[~near].mean()) < noise_jy
    assert spectrum[near].sum() == pytest.approx(LINE.sum(), rel=0.02)
    centre = np.average(np.flatnonzero(near), weights=spectrum[near])
    assert centre == pytest.approx(LINE_CHAN, abs=0.1)


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "sky.txt"),
        ("--fit", 2, "--line-free", "0~19,42~63", "--workers", 2),
        ("--model", "sky.txt", "--fit", 1, "--auto-mask", 6),
    ],
    ids=["model", "fit", "both"],
)
def test_a_line_under_a_bright_continuum(observed, tmp_path, run, monkeypatch, options):
    monkeypatch.setattr(subtraction, "UNIT_SAMPLES", 20_000)  # eight units, of an integration each
    options = [observed / o if o == "sky.txt" else o for o in options]
    code, out, err = run(observed / "a.ms", *options, "--output", tmp_path)
    assert code == 0, err
    found = ["a.ms.line_free.csv"] if "--auto-mask" in options else []
    assert out.split() == [str(tmp_path / name) for name in ("a.ms", *found)]
    assert "Jy before" in err
    assert_line_is_recovered(tmp_path / "a.ms", "DATA")


def test_a_dry_run_changes_nothing(observed, tmp_path, run):
    code, out, _ = run(observed / "a.ms", "--fit", 1, "--dry-run", "--output", tmp_path / "none")
    assert code == 0
    assert "64 channels, 960 rows in 1 units; line-free 0~63" in out
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ((), 2, "nothing to subtract"),
        (("--fit", 1, "--order", "model,fit"), 2, "must name what is asked for, fit"),
        (("--auto-mask", 5), 2, "belong to --fit"),
        (("--fit", 1, "--line-free", "x"), 2, "'x' is no spectral range"),
        (("--fit", 1, "--line-free", "1~2km/s"), 2, "need the rest frequency"),
        (("--fit", 5, "--line-free", "1~2"), 3, "only 2 of 64 channels are line-free (1~2)"),
        (("--model", "absent.txt"), 3, "absent.txt"),
        (("--fit", 1, "--output-column", "DATA"), 5, "--overwrite"),
    ],
)
def test_what_cannot_work_is_said_in_one_line(observed, run, options, code, said):
    got, _, err = run(observed / "a.ms", *options)
    assert got == code
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_a_killed_run_leaves_no_column(observed, tmp_path, run):
    """What a killed run began has another name, and the next run clears it away."""
    path = shutil.copytree(observed / "a.ms", tmp_path / "a.ms")
    process = subprocess.Popen(
        [sys.executable, "-m", "batch_imaging", "subtract", path, "--fit", "1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + DEADLINE_S
    try:
        while process.poll() is None and time.monotonic() < deadline:
            with table(str(path), ack=False, lockoptions="usernoread") as now:
                if "LINE_DATA_PARTIAL" in now.colnames():
                    break
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait(DEADLINE_S)
    code, _, err = run(path, "--fit", 1, "--overwrite")
    assert code == 0, err
    with table(str(path), ack=False) as after:
        assert "LINE_DATA" in after.colnames()
        assert "LINE_DATA_PARTIAL" not in after.colnames()
