"""A Measurement Set of one source with a line, noise and flagged channels."""

import numpy as np

from batch_imaging.io.measurement_set import write_measurement_set
from batch_imaging.model.direction import Direction
from batch_imaging.model.geometry import itrf_from_enu, station_uvw_m
from batch_imaging.model.ska_low import SKA1_LOW_CENTRE
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility

SPEED_OF_LIGHT_M_S = 299_792_458.0
CENTRE = Direction.from_degrees(201.4, -30.5)
N_CHAN, N_TIMES, N_STATIONS = 12, 4, 24
FREQ_HZ = 150e6 + 5e3 * np.arange(N_CHAN)
TIMES_S = 59_025.0 * 86_400 + 1800.0 * np.arange(N_TIMES)
LINE = 2.0 * np.exp(-0.5 * ((np.arange(N_CHAN) - 5.3) / 1.5) ** 2)
SOURCE_LM, FLUX_JY, NOISE_JY = (0.0125, -0.02), 1.0, 0.05
FLAGGED, HALF_FLAGGED = 9, 3


def simulate(path, *, flux_jy=FLUX_JY + LINE, polarised=(0.0, 0.0, 0.0), freq_hz=FREQ_HZ, seed=4):
    """Write a set of one source; ``flux_jy`` is (chan,) or (time, chan)."""
    rng = np.random.default_rng(seed)
    enu_m = np.random.default_rng(1).uniform(-300, 300, (N_STATIONS, 3)) * (1, 1, 0.01)
    itrf_m = itrf_from_enu(enu_m, SKA1_LOW_CENTRE)
    first, second = (a.astype(np.int32) for a in np.triu_indices(N_STATIONS, 1))
    stations_m = station_uvw_m(itrf_m, TIMES_S, CENTRE)
    uvw_m = (stations_m[:, second] - stations_m[:, first]).reshape(-1, 3)
    l, m = SOURCE_LM
    path_m = uvw_m @ np.array([l, m, np.sqrt(1 - l**2 - m**2) - 1])
    wave = np.exp(-2j * np.pi * np.outer(path_m, freq_hz / SPEED_OF_LIGHT_M_S))
    flux = np.repeat(np.broadcast_to(flux_jy, (N_TIMES, len(freq_hz))), len(first), axis=0)
    q, u, v = polarised
    # a block holds the complex conjugates of DATA: so XY is U − iV
    hands = np.stack([flux + q, u - 1j * v + 0 * flux, u + 1j * v + 0 * flux, flux - q], axis=2)
    shape = hands.shape
    noise = NOISE_JY * (rng.normal(size=shape) + 1j * rng.normal(size=shape))
    weight = np.full(shape, 1 / NOISE_JY**2, dtype=np.float32)
    if len(freq_hz) == N_CHAN:
        weight[:, FLAGGED] = 0
        weight[: len(weight) // 2, HALF_FLAGGED] = 0
    write_measurement_set(
        path,
        Visibility(
            uvw_m=uvw_m,
            time_mjd_s=np.repeat(TIMES_S, len(first)),
            antenna1=np.tile(first, N_TIMES),
            antenna2=np.tile(second, N_TIMES),
            vis=(hands * wave[:, :, np.newaxis] + noise).astype(np.complex64),
            weight=weight,
            freq_hz=freq_hz,
            chan_width_hz=np.full(len(freq_hz), 5e3),
            corr=("XX", "XY", "YX", "YY"),
            integration_s=10.0,
            phase_centre=CENTRE,
            stations=StationLayout(
                tuple(f"S{k}" for k in range(N_STATIONS)), itrf_m, np.full(N_STATIONS, 38.0), "T"
            ),
        ),
    )
    return path
