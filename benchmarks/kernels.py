"""Rates of the kernels on one core, and what they lose in accuracy, on the data of the seed case.

The peer of the gain solver is DP3's gaincal on the same problem.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from batch_imaging.kernels.components import BaselineFactors, predict_points
from batch_imaging.kernels.deconvolution import CleanSettings, deconvolve
from batch_imaging.kernels.gains import baseline_gains, solve_gains, sum_normal_matrices
from batch_imaging.kernels.gridding import make_dirty, predict_image, set_native_threads
from batch_imaging.kernels.restoring import fit_beam
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.model.direction import Direction
from batch_imaging.model.geometry import GeodeticPosition, station_uvw_m, times_for_hour_angles
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.ska_low import select_within, ska1_low
from benchmarks.table import Measurement, Table, tabulate

Result = TypeVar("Result")

ACCURACY = 1e-4
FREQ_HZ = np.linspace(0.9e8, 1.1e8, 8)
CENTRE = Direction.from_degrees(0.0, -30.0)
N_SOURCES = 50
CHECKED = 40  # rows or pixels that are summed directly


def benchmark_kernels(quick: bool) -> list[Table]:
    """Measure gridding, degridding, component prediction, gain solving and deconvolution."""
    set_native_threads(1)
    factors, uvw_m = _seed_baselines()
    geometry = ImageGeometry(512 if quick else 1024, 0.0005, CENTRE)
    repeats = 1 if quick else 3
    measurements = [
        *_gridding(uvw_m, geometry, repeats),
        _gridding_rate(uvw_m, ImageGeometry(512, 0.0005, CENTRE), 8, repeats),
        _gridding_rate(uvw_m, geometry, 16 if quick else 64, 1),
        *_components(factors, geometry, repeats),
        *_gain_solving(),
        *_deconvolution(uvw_m, geometry),
    ]
    note = (
        f"One thread; {uvw_m.shape[0] * len(FREQ_HZ):,} visibilities of {len(FREQ_HZ)} channels, "
        f"{geometry.npixel}² pixels of {1e3 * geometry.cell_rad:g} mrad, "
        f"gridding accuracy {ACCURACY:g} in single precision. Errors are rms over rms, against "
        f"direct sums over {CHECKED} pixels or rows."
    )
    return [tabulate("Kernels", measurements, "DP3", note)]


def _seed_baselines() -> tuple[BaselineFactors, NDArray[np.float64]]:
    """Return the baselines of the seed case, and their (row, 3) uvw."""
    stations = select_within(ska1_low(), 750.0)
    longitude_rad = GeodeticPosition.from_itrf(stations.reference_itrf_m).longitude_rad
    hour_angles_rad = np.deg2rad(np.linspace(-30, 30, 5))
    times = times_for_hour_angles(hour_angles_rad, CENTRE, longitude_rad, "2020-05-23")
    first, second = (a.astype(np.int32) for a in np.triu_indices(len(stations), 1))
    stations_m = station_uvw_m(stations.itrf_m, times, CENTRE)
    factors = BaselineFactors(
        stations_m,
        np.arange(len(times) + 1) * len(first),
        np.tile(first, len(times)),
        np.tile(second, len(times)),
    )
    return factors, (stations_m[:, second] - stations_m[:, first]).reshape(-1, 3)


def _sky(geometry: ImageGeometry) -> NDArray[np.float32]:
    """Return an image of points, Jy per pixel."""
    rng = np.random.default_rng(1)
    image = np.zeros(geometry.shape, dtype=np.float32)
    image[*rng.integers(0, geometry.npixel, (2, N_SOURCES))] = rng.pareto(1.5, N_SOURCES) + 1
    return image


def _lmn(
    geometry: ImageGeometry, rows: NDArray[np.intp], columns: NDArray[np.intp]
) -> NDArray[np.float64]:
    l, m = (axis.ravel() for axis in geometry.lm_grid())
    n_minus_1 = np.sqrt(1 - l[columns] ** 2 - m[rows] ** 2) - 1
    return np.stack([l[columns], m[rows], n_minus_1])


def _gridding(
    uvw_m: NDArray[np.float64], geometry: ImageGeometry, repeats: int
) -> list[Measurement]:
    image, n_vis = _sky(geometry), uvw_m.shape[0] * len(FREQ_HZ)
    vis, predict_s = _best(
        lambda: predict_image(uvw_m, FREQ_HZ, image, geometry, accuracy=ACCURACY), repeats
    )
    dirty, invert_s = _best(
        lambda: make_dirty(uvw_m, FREQ_HZ, vis, None, geometry, accuracy=ACCURACY), repeats
    )
    rng = np.random.default_rng(2)

    some = rng.choice(uvw_m.shape[0], CHECKED, replace=False)
    lit = np.nonzero(image)
    waves = _waves(uvw_m[some], _lmn(geometry, *lit))
    predict_error = _relative_rms(vis[some], waves @ image[lit].astype(float))

    rows, columns = rng.integers(0, geometry.npixel, (2, CHECKED))
    lmn = _lmn(geometry, rows, columns)
    true = np.array([np.vdot(_waves(uvw_m, lmn[:, [k]])[..., 0], vis) for k in range(CHECKED)])
    invert_error = _relative_rms(dirty[rows, columns], true.real)

    both = 2e-6 * n_vis / (predict_s + invert_s)
    return [
        Measurement("invert", 1e-6 * n_vis / invert_s, "Mvis/s", at_least=True),
        Measurement("predict", 1e-6 * n_vis / predict_s, "Mvis/s", at_least=True),
        Measurement("invert and predict", both, "Mvis/s", 3.0, at_least=True),
        Measurement("invert, error", invert_error, "", 2e-5),
        Measurement("predict, error", predict_error, "", 2e-5),
    ]


def _gridding_rate(
    uvw_m: NDArray[np.float64], geometry: ImageGeometry, n_chan: int, repeats: int
) -> Measurement:
    """Measure both ways again: transforms of the image weigh less, the more there is to grid."""
    freq_hz, image = np.linspace(FREQ_HZ[0], FREQ_HZ[-1], n_chan), _sky(geometry)
    vis, predict_s = _best(
        lambda: predict_image(uvw_m, freq_hz, image, geometry, accuracy=ACCURACY), repeats
    )
    _, invert_s = _best(
        lambda: make_dirty(uvw_m, freq_hz, vis, None, geometry, accuracy=ACCURACY), repeats
    )
    rate = 2e-6 * vis.size / (predict_s + invert_s)
    name = f"… {geometry.npixel}², {n_chan} channels"
    return Measurement(name, rate, "Mvis/s", 3.0, at_least=True)


def _waves(uvw_m: NDArray[np.float64], lmn: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Return exp(−2πi ν/c (u l + v m + w (n − 1))), (row, chan, direction)."""
    turns = (uvw_m @ lmn)[:, np.newaxis] * (FREQ_HZ / SPEED_OF_LIGHT_M_S)[:, np.newaxis]
    return np.asarray(np.exp(-2j * np.pi * turns))


def _components(
    factors: BaselineFactors, geometry: ImageGeometry, repeats: int
) -> list[Measurement]:
    image = _sky(geometry)
    lit = np.nonzero(image)
    lmn = _lmn(geometry, *lit)
    flux_jy = np.repeat(image[lit][:, np.newaxis].astype(float), len(FREQ_HZ), axis=1)
    products = 1e-9 * len(factors.antenna1) * flux_jy.size
    found = []
    for double in (True, False):
        predict = partial(predict_points, factors, FREQ_HZ, lmn, flux_jy, double=double)
        _, seconds = _best(predict, repeats)
        name = f"predict {N_SOURCES} components, {'double' if double else 'single'}"
        found.append(Measurement(name, products / seconds, "Gvis·sources/s", at_least=True))
    return found


def _gain_solving() -> list[Measurement]:
    """Solve phases of 166 stations for each of 8 channels and 5 times."""
    rng, n_stations, n_solutions = np.random.default_rng(3), 166, 40
    pairs = np.triu_indices(n_stations, 1)
    first, second = (a.astype(np.int32) for a in pairs)
    model = rng.standard_normal((len(first), n_solutions, 2)) @ np.array([1, 1j])
    true = np.exp(1j * rng.standard_normal((n_stations, n_solutions)))
    vis = (model * baseline_gains(true, first, second))[..., np.newaxis]
    model, weight = model[..., np.newaxis], np.ones(vis.shape)
    matrices, sum_s = _best(
        lambda: sum_normal_matrices(vis, model, weight, (first, second), n_stations), 3
    )
    start = np.ones((n_solutions, n_stations), dtype=complex)
    solution, solve_s = _best(lambda: solve_gains(matrices, start, phase_only=True), 3)
    error = solution.gain * (true.T / true.T[:, :1]).conj()
    return [
        Measurement("gains, sums over baselines", 1e3 * sum_s, "ms"),
        Measurement("gains, solving", 1e3 * solve_s, "ms"),
        Measurement("gains, both", 1e3 * (sum_s + solve_s), "ms", peer=380),
        Measurement("gains, error", float(np.abs(np.angle(error)).max()), "rad"),
    ]


def _deconvolution(uvw_m: NDArray[np.float64], geometry: ImageGeometry) -> list[Measurement]:
    """Clean two planes of points together, to a fiftieth of their peak."""
    halves = np.split(FREQ_HZ, 2)
    planes = [_dirty_and_psf(uvw_m, freq_hz, geometry) for freq_hz in halves]
    dirty, psf = (np.stack(kind) for kind in zip(*planes, strict=True))
    beam = fit_beam(psf.mean(axis=0), geometry.cell_rad)
    settings = CleanSettings((0, 3, 10), 2, 0.1, 0.98, 0.0, 10_000)
    edges_hz = np.array([[freq_hz.min(), freq_hz.max()] for freq_hz in halves])
    result, seconds = _best(
        lambda: deconvolve(
            dirty, psf, edges_hz, np.ones(2), geometry.cell_rad, beam.bmaj_rad, settings
        ),
        1,
    )
    return [
        Measurement("deconvolve 2 planes", seconds, "s"),
        Measurement("… minor iterations", result.iterations / seconds, "/s", at_least=True),
    ]


def _dirty_and_psf(
    uvw_m: NDArray[np.float64], freq_hz: NDArray[np.float64], geometry: ImageGeometry
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    vis = predict_image(uvw_m, freq_hz, _sky(geometry), geometry, accuracy=ACCURACY)
    dirty, psf = (
        make_dirty(uvw_m, freq_hz, samples, None, geometry, accuracy=ACCURACY) / vis.size
        for samples in (vis, np.ones_like(vis))
    )
    return np.asarray(dirty, dtype=np.float32), np.asarray(psf, dtype=np.float32)


def _best(call: Callable[[], Result], repeats: int) -> tuple[Result, float]:
    """Return a result and the seconds of the fastest of some calls."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - begin)
    return result, min(seconds)


def _relative_rms(found: NDArray[np.generic], true: NDArray[np.generic]) -> float:
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))  # type: ignore[operator]
