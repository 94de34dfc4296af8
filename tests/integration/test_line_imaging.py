"""From a set with continuum and a line, one command: cube, moments, spectra and report."""

import csv
import json
import logging
import signal

import numpy as np
import pytest
from astropy.io import fits

from batch_imaging.cli import main
from batch_imaging.errors import DataError
from batch_imaging.io.measurement_set import write_measurement_set
from batch_imaging.io.source_list import write_source_list
from batch_imaging.model.direction import Direction, radec_from_lm
from batch_imaging.model.geometry import itrf_from_enu, station_uvw_m
from batch_imaging.model.ska_low import SKA1_LOW_CENTRE
from batch_imaging.model.sky import PolynomialSpectrum, SkyComponent, SkyModel
from batch_imaging.model.spectral_axis import velocity_from_freq
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility
from batch_imaging.workflow.input_sets import find_sets

pytestmark = pytest.mark.integration

SPEED_OF_LIGHT_M_S = 299_792_458.0
CENTRE = Direction.from_degrees(201.4, -30.5)
N_CHAN, N_TIMES, N_STATIONS, NPIXEL = 24, 4, 20, 64
CHAN_HZ, CELL_ARCSEC, REST_HZ = 5e3, 120, 150.06e6
FREQ_HZ = 150e6 + CHAN_HZ * np.arange(N_CHAN)
LINE_CHAN, LINE_SIGMA, LINE_JY, CONTINUUM_JY, NOISE_JY = 11.3, 1.5, 0.1, 10.0, 0.005
LINE = LINE_JY * np.exp(-0.5 * ((np.arange(N_CHAN) - LINE_CHAN) / LINE_SIGMA) ** 2)
LINE_FREE = "0~5,17~23"
ROW, COLUMN = 20, 41


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """Write a line under a continuum a hundred times as bright, and the list of the latter."""
    folder = tmp_path_factory.mktemp("observed")
    rng = np.random.default_rng(4)
    enu_m = rng.uniform(-300, 300, (N_STATIONS, 3)) * (1, 1, 0.01)
    itrf_m = itrf_from_enu(enu_m, SKA1_LOW_CENTRE)
    times = 59_025.0 * 86_400 + 900.0 * np.arange(N_TIMES)
    first, second = (a.astype(np.int32) for a in np.triu_indices(N_STATIONS, 1))
    stations_m = station_uvw_m(itrf_m, times, CENTRE)
    uvw_m = (stations_m[:, second] - stations_m[:, first]).reshape(-1, 3)
    cell_rad = np.deg2rad(CELL_ARCSEC / 3600)
    l, m = -(COLUMN - NPIXEL // 2) * cell_rad, (ROW - NPIXEL // 2) * cell_rad
    spectrum = PolynomialSpectrum(CONTINUUM_JY, 150e6, (-0.8,), logarithmic=True)
    path_m = uvw_m @ np.array([l, m, np.sqrt(1 - l**2 - m**2) - 1])
    wave = np.exp(-2j * np.pi * np.outer(path_m, FREQ_HZ / SPEED_OF_LIGHT_M_S))
    shape = (len(uvw_m), N_CHAN, 2)
    noise = NOISE_JY * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    vis = (wave * (spectrum.flux_jy(FREQ_HZ) + LINE))[:, :, np.newaxis] + noise
    write_measurement_set(
        folder / "a.ms",
        Visibility(
            uvw_m=uvw_m,
            time_mjd_s=np.repeat(times, len(first)),
            antenna1=np.tile(first, N_TIMES),
            antenna2=np.tile(second, N_TIMES),
            vis=vis.astype(np.complex64),
            weight=np.full(shape, 1 / NOISE_JY**2, dtype=np.float32),
            freq_hz=FREQ_HZ,
            chan_width_hz=np.full(N_CHAN, CHAN_HZ),
            corr=("XX", "YY"),
            integration_s=10.0,
            phase_centre=CENTRE,
            stations=StationLayout(
                tuple(f"S{k}" for k in range(N_STATIONS)), itrf_m, np.full(N_STATIONS, 38.0), "T"
            ),
        ),
    )
    ra_rad, dec_rad = radec_from_lm(l, m, CENTRE)
    component = SkyComponent("s", float(ra_rad), float(dec_rad), spectrum)
    write_source_list(folder / "a.txt", SkyModel((component,)))
    return folder


@pytest.fixture
def run(capsys):
    """Run the program in this process; return its exit code and what it says on both streams."""
    handler, root = signal.getsignal(signal.SIGTERM), logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, handler)
    root.handlers = handlers
    root.setLevel(level)


def image(observed, output, *options):
    settings = ("--npixel", NPIXEL, "--cellsize", f"{CELL_ARCSEC}arcsec", "--no-clean")
    rest = ("--rest-freq", f"{REST_HZ}Hz")
    return ("image", observed / "a.ms", "-o", output, *settings, *rest, *options)


def stages(folder):
    lines = (folder / "stages.jsonl").read_text().splitlines()
    return [json.loads(line)["stage"] for line in lines]


def check_line(folder, cube):
    """The line's flux within 2 %, its velocity within a tenth of a channel."""
    spectrum = fits.getdata(folder / cube)[0, :, ROW, COLUMN]
    assert spectrum[6:17].sum() == pytest.approx(LINE.sum(), rel=0.02)
    centre_hz = FREQ_HZ[0] + LINE_CHAN * CHAN_HZ
    step_km_s = SPEED_OF_LIGHT_M_S / 1e3 * CHAN_HZ / REST_HZ
    velocity_km_s = velocity_from_freq(centre_hz, REST_HZ) / 1e3
    moments = [fits.getdata(folder / f"moment{order}.fits")[ROW, COLUMN] for order in (0, 1, 2)]
    assert moments[0] == pytest.approx(LINE.sum() * step_km_s, rel=0.02)
    assert moments[1] == pytest.approx(velocity_km_s, abs=0.1 * step_km_s)
    assert moments[2] == pytest.approx(LINE_SIGMA * step_km_s, rel=0.05)


def test_one_command_makes_everything_and_again_what_changed(observed, tmp_path, run):
    options = ("--model", observed / "a.txt", "--fit", 1, "--line-free", LINE_FREE)
    command = image(observed, tmp_path, *options)
    code, said, _ = run(*command, "--dry-run")
    assert code == 0
    assert "moment0.fits" in said
    assert list(tmp_path.iterdir()) == []
    code, said, error = run(*command)
    assert code == 0, error
    check_line(tmp_path, "image.fits")
    paths = [line for line in said.splitlines() if line.startswith("/")]
    names = ["image.fits", *(f"moment{k}.fits" for k in range(3)), "spectra.csv"]
    names += [*(f"moment{k}.png" for k in range(3)), "spectra.png", "report.html"]
    assert paths == [str(tmp_path / name) for name in names]
    with (tmp_path / "spectra.csv").open() as stream:
        (_, *rows) = csv.reader(stream)
    before, after = np.array(rows, dtype=float)[:, 3:5].T
    assert before.mean() == pytest.approx(CONTINUUM_JY, rel=0.01)
    assert after.sum() == pytest.approx(LINE.sum(), rel=0.02)
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 6
    assert "before and after" in page
    assert stages(tmp_path) == ["subtraction", "moments"]

    files = [*tmp_path.rglob("image.fits"), *tmp_path.rglob("subtracted/*/table.f*")]
    times = [path.stat().st_mtime_ns for path in files]
    assert run(*command, "--moments", 10)[0] == 0
    assert [path.stat().st_mtime_ns for path in files] == times
    assert stages(tmp_path) == ["subtraction", "moments", "moments"]


def test_the_continuum_of_pixels(observed, tmp_path, run):
    command = image(observed, tmp_path, "--fit-image", 1, "--line-free", LINE_FREE)
    code, _, error = run(*command)
    assert code == 0, error
    check_line(tmp_path, "line.fits")
    other = tmp_path / "other.fits"
    options = ("-o", other, "--order", 1, "--line-free", LINE_FREE, "--chunk", "0,7,0")
    assert run("cube", "subtract", tmp_path / "image.fits", *options)[0] == 0
    pixels = fits.getdata(tmp_path / "line.fits").squeeze()
    np.testing.assert_array_equal(fits.getdata(other).squeeze(), pixels)
    few = (*options[:-3], "3~3", "--overwrite")
    code, _, error = run("cube", "subtract", tmp_path / "image.fits", *few)
    assert code == 3
    assert "only 1 of 24 channels are line-free" in error


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--line-free", "0~5"), "belong to a fit"),
        (("--fit-image", 1, "--auto-mask", 5), "in a fit to visibilities"),
        (("--fit-image", 1, "--axis", "time"), "axis time: moments"),
        (("--fit", 1, "--order", "fit,model"), "--order fit,model: must name"),
    ],
)
def test_what_does_not_go_together(observed, tmp_path, run, options, said):
    code, _, error = run(*image(observed, tmp_path / "out", *options))
    assert code == 2
    assert said in error
    assert not (tmp_path / "out").exists()


def test_a_job_of_parameters(observed, tmp_path, run):
    parameters = {
        "imaging": {"npixel": NPIXEL},
        "input": {"buffer": str(observed), "sets": ["a*.ms"], "channels": "2~21"},
        "image": {
            "clean": False,
            "rest_freq": REST_HZ,
            "cellsize": np.deg2rad(CELL_ARCSEC / 3600),
            "model": "a.txt",
        },
    }
    params, images = tmp_path / "params.json", tmp_path / "buff-pb-local-img"
    params.write_text(json.dumps(parameters))
    code, said, error = run("run", params, "-o", tmp_path, "--engine", "serial")
    assert code == 0, error
    pages = [str(images / page) for page in ("report.html", "report/index.html")]
    assert said.splitlines()[-2:] == pages
    assert fits.getdata(images / "image.fits")[0, :, ROW, COLUMN].sum() == pytest.approx(
        LINE.sum(), rel=0.02
    )
    inputs = json.loads((images / "provenance.json").read_text())["inputs"]
    assert [entry["name"] for entry in inputs] == ["a.ms"]
    code, _, error = run("run", params, "-o", tmp_path, "--set", "input.buffer=nowhere")
    assert code == 3
    assert "there is no such folder, which input.buffer names" in error


def test_sets_that_are_not_there(observed):
    assert find_sets(observed, ["*.ms", "a.ms"]) == (observed / "a.ms",)
    with pytest.raises(DataError, match=r"no Measurement Set b.ms.*there is a\.ms, a\.txt"):
        find_sets(observed, ["a.ms", "b.ms"])
