"""Continuum subtraction: a line under a bright continuum, and prediction from a list of WSClean.

The peer of prediction is crystalball, where its program is on the PATH (it needs an environment of
its own); its second run in one process is timed, when all is compiled.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
from astropy.io import fits
from casacore.tables import table
from numpy.typing import NDArray

from batch_imaging.cli import main
from batch_imaging.execution.executor import SerialExecutor
from batch_imaging.execution.progress import Progress
from batch_imaging.io.measurement_set import read_measurement_set, write_measurement_set
from batch_imaging.io.source_list import write_source_list
from batch_imaging.kernels.gridding import make_dirty
from batch_imaging.kernels.subtraction import subtract_image_continuum
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.model.direction import Direction, radec_from_lm
from batch_imaging.model.geometry import itrf_from_enu, station_uvw_m
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.ska_low import SKA1_LOW_CENTRE
from batch_imaging.model.sky import PolynomialSpectrum, SkyComponent, SkyModel
from batch_imaging.model.spectral_axis import parse_ranges
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility, stokes_i
from batch_imaging.pipelines.subtraction import (
    LineFree,
    Subtraction,
    plan_subtraction,
    run_subtraction,
)
from benchmarks.table import Measurement, Table, tabulate

CENTRE = Direction.from_degrees(201.4, -30.5)
CHECKED_ROWS = 40

CHAN_HZ = 5e3
LINE_CHAN, LINE_SIGMA, LINE_JY, CONTINUUM_JY = 60.3, 3.0, 0.1, 10.0
LINE_PIXEL = (20, 41)  # row, column
GEOMETRY = ImageGeometry(64, 2e-3, CENTRE)
NOISE_JY = 0.02
FINER = 4
LINE_FREE = "0~44,76~127"

CRYSTALBALL = """
import sys, time
from crystalball.crystalball import predict
for _ in range(2):
    begin = time.perf_counter()
    predict(sys.argv[1], sky_model=sys.argv[2], output_column="MODEL_DATA", num_workers=2)
    print("seconds", time.perf_counter() - begin)
"""


def benchmark_subtraction(quick: bool) -> list[Table]:
    """Measure what each method leaves of continuum and line, and the speed of prediction."""
    with tempfile.TemporaryDirectory(prefix="batch-imaging-benchmark-") as folder:
        return [_methods(Path(folder)), _prediction(Path(folder), 2 if quick else 8)]


def _waves(
    uvw_m: NDArray[np.float64], l: float, m: float, freq_hz: NDArray[np.float64]
) -> NDArray[np.complex128]:
    path_m = uvw_m @ np.array([l, m, np.sqrt(1 - l**2 - m**2) - 1])
    return np.exp(-2j * np.pi * np.outer(path_m, freq_hz / SPEED_OF_LIGHT_M_S))


def _observe(n_stations: int, n_times: int, freq_hz: NDArray[np.float64]) -> Visibility:
    """Return an observation without a signal, of unit weights."""
    enu_m = np.random.default_rng(4).uniform(-300, 300, (n_stations, 3)) * (1, 1, 0.01)
    itrf_m = itrf_from_enu(enu_m, SKA1_LOW_CENTRE)
    times = 59_025.0 * 86_400 + 600.0 * np.arange(n_times)
    first, second = (a.astype(np.int32) for a in np.triu_indices(n_stations, 1))
    stations_m = station_uvw_m(itrf_m, times, CENTRE)
    uvw_m = (stations_m[:, second] - stations_m[:, first]).reshape(-1, 3)
    shape = (len(uvw_m), len(freq_hz), 2)
    names = tuple(f"S{k}" for k in range(n_stations))
    return Visibility(
        uvw_m=uvw_m,
        time_mjd_s=np.repeat(times, len(first)),
        antenna1=np.tile(first, n_times),
        antenna2=np.tile(second, n_times),
        vis=np.zeros(shape, dtype=np.complex64),
        weight=np.ones(shape, dtype=np.float32),
        freq_hz=freq_hz,
        chan_width_hz=np.full(len(freq_hz), CHAN_HZ),
        corr=("XX", "YY"),
        integration_s=10.0,
        phase_centre=CENTRE,
        stations=StationLayout(names, itrf_m, np.full(n_stations, 38.0), "benchmark"),
    )


def _draw_sky(lm: NDArray[np.float64], flux_jy: NDArray[np.float64], ref_hz: float) -> SkyModel:
    ra_rad, dec_rad = radec_from_lm(*lm, CENTRE)
    slope = flux_jy * np.random.default_rng(2).normal(-0.7, 0.3, len(flux_jy))
    return SkyModel(
        tuple(
            SkyComponent(
                f"s{k}",
                float(ra_rad[k]),
                float(dec_rad[k]),
                PolynomialSpectrum(float(flux), ref_hz, (float(slope[k]),), logarithmic=False),
            )
            for k, flux in enumerate(flux_jy)
        )
    )


def _subtract(path: Path, subtraction: Subtraction, column: str) -> float:
    """Return the seconds that it took."""
    plans = plan_subtraction([path], subtraction, output_column=column)
    begin = time.perf_counter()
    run_subtraction(plans, subtraction, SerialExecutor(), Progress(show_bar=False))
    return time.perf_counter() - begin


# ---------------------------------------------------------------------------- what is left


def write_line_set(folder: Path) -> NDArray[np.float64]:
    """Write ``line.ms`` and its continuum ``line.txt``, and return (chan,) the line's flux, Jy."""
    freq_hz = 150e6 + CHAN_HZ * np.arange(128)
    block = _observe(24, 8, freq_hz)
    rng = np.random.default_rng(9)
    line_lm = tuple(
        axis.ravel()[index]
        for axis, index in zip(GEOMETRY.lm_grid(), reversed(LINE_PIXEL), strict=True)
    )
    lm = rng.uniform(-0.04, 0.04, (2, 20))
    lm[:, 0] = line_lm
    flux_jy = np.append(CONTINUUM_JY, rng.uniform(0.5, 3, 19))
    sky = _draw_sky(lm, flux_jy, 150e6)
    line = LINE_JY * np.exp(-0.5 * ((np.arange(len(freq_hz)) - LINE_CHAN) / LINE_SIGMA) ** 2)
    vis = _waves(block.uvw_m, *line_lm, freq_hz) * line
    for (l, m), component in zip(lm.T, sky.components, strict=True):
        vis += _waves(block.uvw_m, l, m, freq_hz) * component.spectrum.flux_jy(freq_hz)
    noise = rng.normal(size=(2, *block.vis.shape)) * NOISE_JY
    write_measurement_set(
        folder / "line.ms",
        block.with_vis((vis[:, :, np.newaxis] + noise[0] + 1j * noise[1]).astype("c8")),
    )
    write_source_list(folder / "line.txt", sky)
    return line


def _methods(folder: Path) -> Table:
    line = write_line_set(folder)
    path, chan = folder / "line.ms", np.arange(len(line))
    line_free = LineFree(parse_ranges(LINE_FREE))
    _subtract(path, Subtraction(("model",), folder / "line.txt"), "MODEL")
    _subtract(path, Subtraction(("fit",), fit_order=2, line_free=line_free), "FIT")
    empty = (chan <= 44) | (chan >= 76)
    freq_hz = 150e6 + CHAN_HZ * chan
    image = subtract_image_continuum(_dirty_cube(path, "DATA"), freq_hz, empty, 3)
    cubes = {
        "model": _dirty_cube(path, "MODEL"),
        "fit": _dirty_cube(path, "FIT"),
        "image": image,
        **{f"batch-imaging image {how}": cube for how, cube in _commanded(folder)},
    }
    noise_jy = NOISE_JY / np.sqrt(2 * len(read_measurement_set(path).uvw_m))
    measurements: list[Measurement] = []
    for method, cube in cubes.items():
        spectrum = cube[:, *LINE_PIXEL]
        flux = spectrum[~empty].sum() / line.sum() - 1
        centre = np.average(chan[~empty], weights=spectrum[~empty])
        measurements += [
            Measurement(f"{method}: error of the line's flux", 100 * abs(flux), "%", 2.0),
            Measurement(f"{method}: of its velocity", abs(centre - LINE_CHAN), "channels", 0.1),
            Measurement(
                f"{method}: rms of the empty channels, all pixels",
                float(np.sqrt((cube[empty] ** 2).mean())) / noise_jy,
                "noise",
                float(np.sqrt(2)),
            ),
        ]
    note = (
        f"A line of {LINE_JY:g} Jy on a source of {CONTINUUM_JY:g} Jy, 19 other sources; "
        "spectra at the line's pixel: of dirty cubes, and of those that the command makes. Noise: "
        "that of one channel of the cube; continuum as strong as it would make √2 of the rms."
    )
    return tabulate("A line under a bright continuum", measurements, "peer", note)


def _commanded(folder: Path) -> Iterator[tuple[str, NDArray[np.floating]]]:
    """Yield the options of `batch-imaging image` and the cube that it leaves."""
    ways = {
        "--model": ("image.fits", ["--model", str(folder / "line.txt")]),
        "--fit 2": ("image.fits", ["--fit", "2", "--line-free", LINE_FREE]),
        "--fit-image 3": ("line.fits", ["--fit-image", "3", "--line-free", LINE_FREE]),
    }
    cell_arcsec = np.rad2deg(GEOMETRY.cell_rad / FINER) * 3600  # the command fits beams
    for number, (how, (cube, options)) in enumerate(ways.items()):
        output = folder / f"commanded-{number}"
        arguments = [
            *("image", str(folder / "line.ms"), "-o", str(output), *options, "--no-clean"),
            *("--npixel", str(FINER * GEOMETRY.npixel), "--cellsize", f"{cell_arcsec:.17g}arcsec"),
            *("--set", "imaging.accuracy=1e-7", "--quiet"),
        ]
        with redirect_stdout(StringIO()):
            failed = main(arguments)
        if failed:
            raise RuntimeError(f"batch-imaging image {how} failed")
        yield how, fits.getdata(output / cube)[0, :, ::FINER, ::FINER]


def _dirty_cube(path: Path, column: str) -> NDArray[np.floating]:
    block = read_measurement_set(path, column=column)
    vis, weight = stokes_i(block)
    planes = [
        make_dirty(
            block.uvw_m,
            block.freq_hz[[k]],
            vis[:, [k]],
            weight[:, [k]],
            GEOMETRY,
            accuracy=1e-7,
        )
        / weight[:, k].sum()
        for k in range(len(block.freq_hz))
    ]
    return np.stack(planes)


# ---------------------------------------------------------------------------- prediction


def _prediction(folder: Path, n_times: int) -> Table:
    freq_hz = 150e6 + 1e5 * np.arange(16)
    block = _observe(64, n_times, freq_hz)
    path, sources = folder / "empty.ms", folder / "sources.txt"
    write_measurement_set(path, block)
    rng = np.random.default_rng(3)
    lm = rng.uniform(-0.05, 0.05, (2, 5000))
    sky = _draw_sky(lm, rng.exponential(0.1, 5000), 150e6)
    write_source_list(sources, sky)
    seconds = {
        way: _subtract(path, Subtraction(("model",), sources, way=way), way.upper())
        for way in ("product", "degrid")
    }
    rows = rng.integers(0, block.n_rows, CHECKED_ROWS)
    direct = np.zeros((CHECKED_ROWS, len(freq_hz)), dtype=complex)
    flux_jy = sky.flux_jy(freq_hz)
    for (l, m), flux in zip(lm.T, flux_jy, strict=True):
        direct += _waves(block.uvw_m[rows], l, m, freq_hz) * flux
    columns = {way: _column(path, way.upper()) for way in seconds}
    theirs_s = _run_crystalball(path, sources)
    measurements = [
        Measurement("product", seconds["product"], "s", theirs_s and theirs_s / 5, theirs_s),
        Measurement("degridding", seconds["degrid"], "s", peer=theirs_s),
    ]
    for way, vis in columns.items():
        error = _relative(-vis[rows].conj() - direct, direct)
        measurements.append(Measurement(f"{way}: error against a direct sum", error, "", 1e-5))
    if theirs_s:
        peer = _column(path, "MODEL_DATA")
        difference = _relative(columns["product"] + peer, peer)
        measurements.append(Measurement("difference from crystalball", difference, "", 1e-5))
    note = (
        f"5,000 points, {block.n_rows * len(freq_hz):,} visibilities of {len(freq_hz)} channels, "
        "from one column to another, on the same cores; errors are rms over rms."
    )
    return tabulate("Prediction from a source list", measurements, "crystalball", note)


def _relative(error: NDArray[np.complexfloating], of: NDArray[np.complexfloating]) -> float:
    return float(np.linalg.norm(error) / np.linalg.norm(of))


def _column(path: Path, name: str) -> NDArray[np.complex128]:
    """Return (row, chan) the first correlation of a column, as it is stored."""
    with table(str(path), ack=False, lockoptions="usernoread") as main:
        return main.getcol(name)[:, :, 0].astype(np.complex128)


def _run_crystalball(path: Path, sources: Path) -> float | None:
    program = shutil.which("crystalball")
    if program is None:
        return None
    python = Path(program).with_name("python")
    done = subprocess.run(
        [python, "-c", CRYSTALBALL, path, sources],
        capture_output=True,
        text=True,
        check=True,
        timeout=1800,
    )
    return float(done.stdout.split()[-1])
