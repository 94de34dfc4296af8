"""Small observations whose visibilities are sums written out here."""

from collections.abc import Callable

import numpy as np
import pytest

from batch_imaging.kernels.components import factor_baselines
from batch_imaging.model.direction import Direction
from batch_imaging.model.geometry import itrf_from_enu, station_uvw_m
from batch_imaging.model.ska_low import SKA1_LOW_CENTRE
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility
from batch_imaging.pipelines import units
from batch_imaging.pipelines.units import LoadedUnit

SPEED_OF_LIGHT_M_S = 299_792_458.0
CENTRE = Direction.from_degrees(10.0, -35.0)
START_MJD_S = 58_992.9 * 86_400
# (l, m, flux): nothing stands on a line of symmetry
SOURCES = np.array([(0.031, -0.012, 3.0), (-0.044, 0.027, 2.0), (0.008, 0.051, 1.0)])


@pytest.fixture(autouse=True)
def empty_cache():
    """Let no test see data that another has read."""
    units._cache.clear()


def direct_sum(uvw_m, freq_hz, sources):
    """Return Σ S exp(−2πi ν/c (ul + vm + w(n − 1))), (row, chan) complex128."""
    l, m, flux_jy = np.asarray(sources).T
    path_m = uvw_m @ np.stack([l, m, np.sqrt(1 - l**2 - m**2) - 1])
    turns = path_m[:, np.newaxis, :] * (np.asarray(freq_hz)[:, np.newaxis] / SPEED_OF_LIGHT_M_S)
    return (flux_jy * np.exp(-2j * np.pi * turns)).sum(axis=2)


@pytest.fixture(name="direct_sum")
def direct_sum_function() -> Callable:
    return direct_sum


@pytest.fixture
def make_block() -> Callable[..., Visibility]:
    """A function that returns a block of ``sources`` seen by stations scattered over 300 m."""

    def make(freq_hz, *, n_stations=12, n_times=4, corr=("XX", "YY"), sources=SOURCES):
        freq_hz = np.atleast_1d(np.asarray(freq_hz, dtype=float))
        rng = np.random.default_rng(7)
        enu_m = rng.uniform(-150, 150, (n_stations, 3)) * (1, 1, 0.01)
        itrf_m = itrf_from_enu(enu_m, SKA1_LOW_CENTRE)
        first, second = (a.astype(np.int32) for a in np.triu_indices(n_stations, 1))
        times = START_MJD_S + 1200.0 * np.arange(n_times)
        stations_m = station_uvw_m(itrf_m, times, CENTRE)
        uvw_m = (stations_m[:, second] - stations_m[:, first]).reshape(-1, 3)
        vis = direct_sum(uvw_m, freq_hz, sources)
        vis = np.repeat(vis[:, :, np.newaxis], len(corr), axis=2).astype(np.complex64)
        return Visibility(
            uvw_m=uvw_m,
            time_mjd_s=np.repeat(times, len(first)),
            antenna1=np.tile(first, n_times),
            antenna2=np.tile(second, n_times),
            vis=vis,
            weight=rng.uniform(0.5, 1.5, vis.shape).astype(np.float32),
            freq_hz=freq_hz,
            chan_width_hz=np.full(len(freq_hz), 1e5),
            corr=corr,
            integration_s=10.0,
            phase_centre=CENTRE,
            stations=StationLayout(
                tuple(f"S{k}" for k in range(n_stations)), itrf_m, np.full(n_stations, 38.0), "T"
            ),
        )

    return make


@pytest.fixture
def load_block() -> Callable[..., LoadedUnit]:
    """A function that makes a loaded unit of a block; the window of each channel is given."""

    def load(block, window_of_chan=None):
        if window_of_chan is None:
            window_of_chan = np.zeros(len(block.freq_hz), dtype=np.intp)
        rows = block.uvw_m, block.time_mjd_s, block.antenna1, block.antenna2
        factors = factor_baselines(*rows, len(block.stations), 1e-6)
        return LoadedUnit(block, np.asarray(window_of_chan), factors)

    return load
