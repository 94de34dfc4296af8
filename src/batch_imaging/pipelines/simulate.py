"""Simulate what the array would have seen: a Measurement Set per window, the truth beside them."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batch_imaging.execution.executor import Executor
from batch_imaging.execution.progress import Progress
from batch_imaging.io.catalogue import write_catalogue
from batch_imaging.io.gain_table_file import write_gain_table
from batch_imaging.io.measurement_set import write_measurement_set
from batch_imaging.io.sky_input import load_sky
from batch_imaging.io.station_file import load_stations
from batch_imaging.kernels.components import BaselineFactors, predict_gaussian, predict_points
from batch_imaging.kernels.gains import baseline_gains
from batch_imaging.model.beam import station_power_beam
from batch_imaging.model.direction import lmn_from_radec
from batch_imaging.model.gains import GainTable
from batch_imaging.model.geometry import GeodeticPosition, station_uvw_m, times_for_hour_angles
from batch_imaging.model.sky import SkyModel, TabulatedSpectrum
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility
from batch_imaging.parameters import Parameters

LOG = logging.getLogger("batch_imaging")

CORR = ("XX", "YY")  # the fewest that make Stokes I in every program that reads Measurement Sets

# Streams of random numbers: each draw is keyed by (seed, stream, window), never by who does it.
_GAIN_STREAM, _NOISE_STREAM = 1, 2


@dataclass(frozen=True, slots=True)
class SimulatedField:
    """The observation that is simulated.

    Attributes
    ----------
    sky: intrinsic flux densities of the components above the horizon of the image.
    apparent_jy: (component, window), as seen through the primary beam.
    time_mjd_s: (integration,) UTC.
    """

    parameters: Parameters
    stations: StationLayout
    time_mjd_s: NDArray[np.float64]
    sky: SkyModel
    apparent_jy: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """The sets, and the truth: what stands in their folder beside them."""

    sets: tuple[Path, ...]
    sky: SkyModel
    apparent: SkyModel
    gains: GainTable
    files: dict[str, Path]


def make_field(parameters: Parameters) -> SimulatedField:
    """Work out stations, times and sky from the parameters."""
    simulation = parameters.simulation
    stations = load_stations(simulation.array, simulation.station_diameter, parameters.rmax)
    centre = GeodeticPosition.from_itrf(stations.reference_itrf_m)
    times = times_for_hour_angles(
        parameters.hour_angles_rad,
        parameters.phase_centre,
        centre.longitude_rad,
        parameters.simulation.date,
    )
    sky = load_sky(parameters)
    apparent_jy = sky.flux_jy(parameters.freq_hz)
    if parameters.simulation.primary_beam:
        l, m, _ = lmn_from_radec(sky.ra_rad, sky.dec_rad, parameters.phase_centre)
        diameter_m = float(stations.diameter_m.mean())
        apparent_jy = apparent_jy * np.stack(
            [station_power_beam(l, m, nu, diameter_m) for nu in parameters.freq_hz], axis=1
        )
    return SimulatedField(parameters, stations, times, sky, apparent_jy)


def run_simulation(
    parameters: Parameters, folder: Path, executor: Executor, progress: Progress
) -> SimulationResult:
    """Write ``ska_pipeline_simulation_vislist_<v>.ms`` and the truth into ``folder``."""
    field = make_field(parameters)
    LOG.debug(
        "simulating %d stations, %d integrations, %d windows, %d sources",
        len(field.stations),
        parameters.ntimes,
        parameters.nfreqwin,
        len(field.sky),
    )
    windows = list(range(parameters.nfreqwin))
    with progress.stage("simulation", len(windows)) as bar:
        sets = tuple(bar.track(executor.map(simulate_window, windows, field, folder)))
    files = {
        "sky": folder / "ska_pipeline_simulation_sky.csv",
        "apparent_sky": folder / "ska_pipeline_simulation_apparent_sky.csv",
        "true_gains": folder / "ska_pipeline_simulation_gains.fits",
    }
    apparent = _apparent_sky(field)
    chosen_hz = float(parameters.freq_hz[parameters.nfreqwin // 2])
    executor.run(write_catalogue, files["sky"], field.sky, chosen_hz)
    executor.run(write_catalogue, files["apparent_sky"], apparent, chosen_hz)
    gains = true_gain_table(field)
    executor.run(write_gain_table, files["true_gains"], gains)
    return SimulationResult(sets, field.sky, apparent, gains, files)


def simulate_window(window: int, field: SimulatedField, folder: Path) -> Path:
    """Simulate one frequency window and write its Measurement Set (a unit of work)."""
    block = make_window(window, field)
    path = folder / f"ska_pipeline_simulation_vislist_{window}.ms"
    write_measurement_set(path, block, observer="batch_imaging", project="simulation")
    return path


def make_window(window: int, field: SimulatedField) -> Visibility:
    """Return the visibilities of one frequency window, corrupted and noisy."""
    parameters, n_stations = field.parameters, len(field.stations)
    first, second = (a.astype(np.int32) for a in np.triu_indices(n_stations, 1))
    n_times, n_baselines = len(field.time_mjd_s), len(first)
    stations_m = station_uvw_m(field.stations.itrf_m, field.time_mjd_s, parameters.phase_centre)
    uvw_m = (stations_m[:, second] - stations_m[:, first]).reshape(-1, 3)
    factors = BaselineFactors(
        stations_m,
        np.arange(n_times + 1) * n_baselines,
        np.tile(first, n_times),
        np.tile(second, n_times),
    )
    vis = _predict_sky(field, factors, uvw_m, window)
    gain = draw_gains(field, window)
    vis *= np.concatenate([baseline_gains(g, first, second) for g in gain])[:, np.newaxis]
    hands, weight = _add_noise(vis, parameters, window)
    return Visibility(
        uvw_m=uvw_m,
        time_mjd_s=np.repeat(field.time_mjd_s, n_baselines),
        antenna1=factors.antenna1,
        antenna2=factors.antenna2,
        vis=hands,
        weight=weight,
        freq_hz=parameters.freq_hz[[window]],
        chan_width_hz=parameters.chan_width_hz[[window]],
        corr=CORR,
        integration_s=parameters.simulation.integration_time,
        phase_centre=parameters.phase_centre,
        stations=field.stations,
        field_name="batch_imaging",
    )


def _predict_sky(
    field: SimulatedField, factors: BaselineFactors, uvw_m: NDArray[np.float64], window: int
) -> NDArray[np.complex128]:
    freq_hz = field.parameters.freq_hz[[window]]
    apparent_jy = field.apparent_jy[:, [window]]
    lmn = np.stack(
        lmn_from_radec(field.sky.ra_rad, field.sky.dec_rad, field.parameters.phase_centre)
    )
    extended = np.array([c.bmaj_rad > 0 for c in field.sky.components], dtype=bool)
    vis = predict_points(factors, freq_hz, lmn[:, ~extended], apparent_jy[~extended])
    for k in np.flatnonzero(extended):
        component = field.sky.components[k]
        widths_rad = (component.bmaj_rad, component.bmin_rad, component.bpa_rad)
        vis += predict_gaussian(uvw_m, freq_hz, lmn[:, k], apparent_jy[k], widths_rad)
    return np.asarray(vis, dtype=np.complex128)


def draw_gains(field: SimulatedField, window: int) -> NDArray[np.complex128]:
    """Return the true station gains of a window, (integration, station)."""
    simulation = field.parameters.simulation
    rng = np.random.default_rng([simulation.seed, _GAIN_STREAM, window])
    shape = (len(field.time_mjd_s), len(field.stations))
    phase_rad = simulation.phase_error * rng.standard_normal(shape)
    amplitude = 1 + simulation.amplitude_error * rng.standard_normal(shape)
    return np.asarray(np.maximum(amplitude, 0.1) * np.exp(1j * phase_rad))


def true_gain_table(field: SimulatedField) -> GainTable:
    """Return the true gains of all windows in the convention of the DATA column."""
    parameters = field.parameters
    gain = np.stack([draw_gains(field, w).conj() for w in range(parameters.nfreqwin)], axis=2)
    return GainTable(
        gain[..., np.newaxis],
        np.ones((*gain.shape, 1)),
        field.time_mjd_s,
        np.full(len(field.time_mjd_s), parameters.simulation.integration_time),
        parameters.freq_hz,
        ("I",),
        field.stations.names,
    )


def _add_noise(
    vis: NDArray[np.complex128], parameters: Parameters, window: int
) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """Return both hands with noise, and their weights 1/σ² (1 where there is no noise).

    Stokes I is the mean of the hands, so each has √2 of its noise.
    """
    sigma_jy = np.sqrt(2) * parameters.simulation.noise
    both = np.repeat(vis[:, :, np.newaxis], len(CORR), axis=2)
    if sigma_jy > 0:
        rng = np.random.default_rng([parameters.simulation.seed, _NOISE_STREAM, window])
        parts = rng.standard_normal((2, *both.shape), dtype=np.float32)
        both += sigma_jy * (parts[0] + 1j * parts[1])
    weight = np.full(both.shape, 1 / sigma_jy**2 if sigma_jy > 0 else 1.0, dtype=np.float32)
    return both.astype(np.complex64), weight


def _apparent_sky(field: SimulatedField) -> SkyModel:
    """Return the sky with the fluxes that the array sees at the windows."""
    freq_hz = tuple(map(float, field.parameters.freq_hz))
    return SkyModel(
        tuple(
            replace(c, spectrum=TabulatedSpectrum(freq_hz, tuple(map(float, fluxes))))
            for c, fluxes in zip(field.sky.components, field.apparent_jy, strict=True)
        )
    )
