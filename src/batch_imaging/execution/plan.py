"""What a run of given parameters will do, need and take, worked out before anything starts.

Sizes follow from the parameters and the station positions, memory from the model in `memory`. Time
is linear in visibilities and pixels; over the runs that the memory model was fitted to, on cores of
2.5 to 3 GHz, it came out within a factor of 2. `python -m benchmarks --only growth` puts both
beside what runs take.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from batch_imaging.errors import ParameterError
from batch_imaging.execution.engines import own_memory_bytes
from batch_imaging.execution.engines.batch_jobs import lifetime_s
from batch_imaging.execution.engines.local import available_cores
from batch_imaging.execution.memory import (
    MemoryModel,
    available_memory_bytes,
    require_memory,
    require_worker_memory,
    shown_bytes,
)
from batch_imaging.execution.unit_size import N_CORR, count_groups, cut_joint_units
from batch_imaging.io.measurement_set import MeasurementSetInfo
from batch_imaging.io.sky_input import load_sky
from batch_imaging.io.station_file import load_stations
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.model.geometry import (
    EARTH_ROTATION_RAD_S,
    GeodeticPosition,
    elevation_rad,
    max_baseline_m,
)
from batch_imaging.model.stations import StationLayout
from batch_imaging.parameters import Parameters

PIXEL_BYTES = 4
IMAGES = 4  # deconvolved, residual, restored, psf, of one window
ICAL_CUBES, SPECTRAL_CUBES = 3, 2

# On disk, as casacore stores the columns of a row and of a sample, and subtables and tiles begun.
_SET_BYTES, _SET_BYTES_PER_ROW, _SET_BYTES_PER_SAMPLE = 1.1e6, 60.0, 8.2
_HEADER_BYTES = 10_000  # of a FITS file
_GAIN_BYTES = 24  # of a station, integration and window: complex128 and a weight
_REPORT_BYTES = 20e6

# Workers are ended at twice what they are expected to need, where there is so much for each of
# them; not below 1.5 times, for they do not all come to their peaks at the same time.
_LIMIT_FACTOR, _LEAST_LIMIT_FACTOR = 2.0, 1.5
_LIMIT_AT_LEAST_BYTES = 1e9

# In time: seconds of one core for a unit, and per visibility and pixel of it.
_START_S, _REPORT_S = 3.0, 5.0
_EXPECTED_CYCLES = 6  # until it has converged, where the budget allows


@dataclass(frozen=True, slots=True)
class _Cost:
    """Seconds of a unit of work."""

    unit_s: float
    visibility_s: float = 0.0
    pixel_s: float = 0.0
    source_s: float = 0.0  # of a visibility

    def __call__(self, visibilities: float, pixels: float, sources: int = 0) -> float:
        visibility_s = self.visibility_s + self.source_s * sources
        return self.unit_s + visibility_s * visibilities + self.pixel_s * pixels


_COSTS = {
    "simulation": _Cost(0.25, 1.3e-6, source_s=1.1e-9),
    "ical: survey": _Cost(0.03),
    "ical: weights": _Cost(0.05, 0.3e-6, 0.02e-6),
    "ical: psf": _Cost(0.1, 0.8e-6, 0.15e-6),
    "ical: major cycle": _Cost(0.05, 0.8e-6, 0.2e-6),
    "ical: minor cycle": _Cost(0.05, 0.0, 0.25e-6),
    "ical: windows": _Cost(0.1, 5.5e-6, 0.8e-6),
    "spectral imaging": _Cost(0.05, 3.5e-6, 0.25e-6),
}


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage of the run: how often it comes, units of work in each, seconds in all."""

    name: str
    rounds: int
    units: int
    wall_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do, need and take.

    Attributes
    ----------
    rows: of one Measurement Set, baselines × integrations.
    visibilities: rows × windows; each has ``correlations`` samples.
    sources: of the sky that is simulated.
    beam_rad: λ / longest baseline at the highest frequency.
    measurement_set_bytes, image_bytes: all that goes into the two buffers.
    worker_bytes, main_bytes: peak memory of one worker and of the process that leads them.
    memory_bytes: of all processes together, what they share counted once, if all came to their
        peaks at the same time.
    memory_limit_bytes: what a worker may take before it is ended.
    available_bytes: memory of this machine that is free.
    """

    array: str
    stations: int
    baselines: int
    max_baseline_m: float
    windows: int
    integrations: int
    rows: int
    visibilities: int
    correlations: int
    sources: int
    npixel: int
    cell_rad: float
    beam_rad: float
    measurement_set_bytes: int
    image_bytes: int
    n_workers: int
    worker_bytes: int
    main_bytes: int
    memory_bytes: int
    memory_limit_bytes: int
    available_bytes: int
    stages: tuple[StagePlan, ...]
    warnings: tuple[str, ...]

    @property
    def samples(self) -> int:
        """Visibilities × correlations."""
        return self.visibilities * self.correlations

    @property
    def disk_bytes(self) -> int:
        """Both buffers and the report."""
        return self.measurement_set_bytes + self.image_bytes + round(_REPORT_BYTES)

    @property
    def wall_s(self) -> float:
        return sum(stage.wall_s for stage in self.stages)

    def to_json(self) -> str:
        """Return all fields as a JSON object."""
        derived = {
            "samples": self.samples,
            "disk_bytes": self.disk_bytes,
            "wall_s": self.wall_s,
        }
        return json.dumps(asdict(self) | derived, indent=2)

    def __str__(self) -> str:
        field_deg = math.degrees(self.npixel * self.cell_rad)
        rows = {
            "array": f"{self.array}, {self.stations} stations, {self.baselines:,} baselines "
            f"up to {self.max_baseline_m:,.0f} m",
            "data": f"{self.windows} windows × {self.integrations} times: {self.rows:,} rows each, "
            f"{self.visibilities:,} visibilities, {self.samples:,} samples",
            "sky": f"{self.sources:,} sources",
            "image": f"{self.npixel}² pixels of {_arcsec(self.cell_rad)}, {field_deg:.3g}° wide, "
            f"beam about {_arcsec(self.beam_rad)}",
            "Measurement Sets": shown_bytes(self.measurement_set_bytes),
            "images, cubes": shown_bytes(self.image_bytes),
            "memory": f"{shown_bytes(self.worker_bytes)} a worker × {self.n_workers}, "
            f"{shown_bytes(self.memory_bytes)} in all, "
            f"{shown_bytes(self.available_bytes)} free",
            "time": f"about {_duration(self.wall_s)}",
        }
        lines = [f"{name:<18}{text}" for name, text in rows.items()]
        lines += ["", f"{'stage':<22}{'units':>12}{'seconds':>10}"]
        for stage in self.stages:
            units = f"{stage.rounds} × {stage.units}" if stage.rounds > 1 else f"{stage.units}"
            lines.append(f"{stage.name:<22}{units:>12}{stage.wall_s:>10.1f}")
        return "\n".join([*lines, *(f"\nwarning: {text}" for text in self.warnings)])


def make_plan(
    parameters: Parameters,
    *,
    n_workers: int | None = None,
    available_bytes: int | None = None,
    worker_limit_bytes: int | None = None,
    cores: int | None = None,
) -> Plan:
    """Work out what a run of a simulated observation takes.

    Parameters
    ----------
    n_workers: instead of the one in the parameters.
    available_bytes, cores: of the machine; by default what this process may use.
    worker_limit_bytes: most that one worker may take, where each has memory of its own as in a pod;
        by default they share with this process what is available.

    Raises
    ------
    DataError, ParameterError: there is no array or no sky, see :func:`load_stations` and
        :func:`load_sky`, or the phase centre does not rise.
    ResourceError: the workers would not fit into memory.
    """
    n_workers = n_workers or parameters.n_workers
    available_bytes = available_bytes or available_memory_bytes()
    worker_limit_bytes = worker_limit_bytes or own_memory_bytes(parameters.engine)
    stations = load_stations(
        parameters.simulation.array, parameters.simulation.station_diameter, parameters.rmax
    )
    baselines = len(stations) * (len(stations) - 1) // 2
    rows, windows = baselines * parameters.ntimes, parameters.nfreqwin
    longest_m = max_baseline_m(stations.itrf_m)
    wavelength_m = SPEED_OF_LIGHT_M_S / float(
        (parameters.freq_hz + parameters.chan_width_hz / 2).max()
    )
    warnings = _image_warnings(parameters, longest_m, wavelength_m)
    warnings += _observation_warnings(parameters, stations)
    memory = MemoryModel.of(parameters, rows, n_workers)
    pixels = parameters.imaging.npixel**2
    if worker_limit_bytes is None:
        require_memory(memory, parameters.imaging.npixel, available_bytes)
        largest_bytes = _largest_limit_bytes(memory, pixels, available_bytes)
    else:
        npixel = parameters.imaging.npixel
        require_worker_memory(memory, npixel, worker_limit_bytes, available_bytes)
        largest_bytes = worker_limit_bytes
    sources = len(load_sky(parameters))
    if not sources:
        warnings.append(
            f"no source above simulation.flux_limit = {parameters.simulation.flux_limit:g} Jy is "
            "in the field: lower the limit, or there is nothing to calibrate with"
        )
    stages = _plan_stages(parameters, rows, sources, n_workers, cores or available_cores())
    warnings += _walltime_warnings(parameters, stages)
    return Plan(
        array=stations.array_name,
        stations=len(stations),
        baselines=baselines,
        max_baseline_m=longest_m,
        windows=windows,
        integrations=parameters.ntimes,
        rows=rows,
        visibilities=rows * windows,
        correlations=N_CORR,
        sources=sources,
        npixel=parameters.imaging.npixel,
        cell_rad=parameters.cell_rad,
        beam_rad=wavelength_m / longest_m,
        measurement_set_bytes=_measurement_set_bytes(parameters, rows, len(stations)),
        image_bytes=_image_bytes(parameters, len(stations)),
        n_workers=n_workers,
        worker_bytes=round(memory.worker_bytes(pixels)),
        main_bytes=round(memory.main_bytes(pixels)),
        memory_bytes=round(memory.total_bytes(pixels)),
        memory_limit_bytes=min(_usual_limit_bytes(memory, pixels), largest_bytes),
        available_bytes=available_bytes,
        stages=stages,
        warnings=tuple(warnings),
    )


@dataclass(frozen=True, slots=True)
class ImagingPlan:
    """What imaging Measurement Sets that are there already needs.

    Attributes
    ----------
    memory_limit_bytes: what a worker may take before it is ended.
    """

    memory_limit_bytes: int
    warnings: tuple[str, ...]


def plan_imaging(
    parameters: Parameters,
    infos: Sequence[MeasurementSetInfo],
    *,
    available_bytes: int | None = None,
) -> ImagingPlan:
    """Work out what imaging of Measurement Sets needs, each channel taken for a window.

    Parameters
    ----------
    infos: of at least one set.
    available_bytes: of the machine; by default what this process may use.

    Raises
    ------
    ResourceError: the workers would not fit into memory.
    """
    available_bytes = available_bytes or available_memory_bytes()
    sized = parameters.model_copy(
        update={
            "nfreqwin": sum(len(info.freq_hz) for info in infos),
            "ntimes": max(info.n_integrations for info in infos),
        }
    )
    rows = max(info.n_rows for info in infos)
    memory = replace(MemoryModel.of(sized, rows, parameters.n_workers), simulation_bytes=0.0)
    npixel, own_bytes = parameters.imaging.npixel, own_memory_bytes(parameters.engine)
    if own_bytes is None:
        require_memory(memory, npixel, available_bytes)
        # Workers get all there is: windows of many channels may need more than the model says.
        limit_bytes = _largest_limit_bytes(memory, npixel**2, available_bytes)
    else:
        require_worker_memory(memory, npixel, own_bytes, available_bytes)
        limit_bytes = min(_usual_limit_bytes(memory, npixel**2), own_bytes)
    highest_hz = max(float((info.freq_hz + info.chan_width_hz / 2).max()) for info in infos)
    warnings = _image_warnings(
        parameters, max(info.max_uv_m for info in infos), SPEED_OF_LIGHT_M_S / highest_hz
    )
    return ImagingPlan(limit_bytes, tuple(warnings))


def _usual_limit_bytes(memory: MemoryModel, pixels: int) -> int:
    return round(max(_LIMIT_FACTOR * memory.worker_bytes(pixels), _LIMIT_AT_LEAST_BYTES))


def _largest_limit_bytes(memory: MemoryModel, pixels: int, available_bytes: int) -> int:
    """Return a worker's share of the machine, or what it must have in any case."""
    share_bytes = (available_bytes - memory.main_bytes(pixels)) / memory.n_workers
    return round(max(_LEAST_LIMIT_FACTOR * memory.worker_bytes(pixels), share_bytes))


# ---------------------------------------------------------------------------------- sizes


def _measurement_set_bytes(parameters: Parameters, rows: int, n_stations: int) -> int:
    one_set = _SET_BYTES + rows * (_SET_BYTES_PER_ROW + _SET_BYTES_PER_SAMPLE * N_CORR)
    return round(parameters.nfreqwin * one_set + _gain_table_bytes(parameters, n_stations))


def _image_bytes(parameters: Parameters, n_stations: int) -> int:
    cubes = ICAL_CUBES + (SPECTRAL_CUBES if parameters.spectral.enabled else 0)
    planes = IMAGES + cubes * parameters.nfreqwin
    return (
        planes * PIXEL_BYTES * parameters.imaging.npixel**2
        + (IMAGES + cubes) * _HEADER_BYTES
        + _gain_table_bytes(parameters, n_stations)
    )


def _gain_table_bytes(parameters: Parameters, n_stations: int) -> int:
    return _GAIN_BYTES * n_stations * parameters.ntimes * parameters.nfreqwin


# ----------------------------------------------------------------------------------- time


def _plan_stages(
    parameters: Parameters, rows: int, sources: int, n_workers: int, cores: int
) -> tuple[StagePlan, ...]:
    pixels, windows = parameters.imaging.npixel**2, parameters.nfreqwin
    (joint, _), groups = cut_joint_units(parameters, rows), count_groups(parameters)
    side_by_side = min(n_workers, cores)
    cycles = min(_EXPECTED_CYCLES, parameters.ical.stopping.max_nmajor)

    def stage(name: str, units: int, visibilities: float, rounds: int = 1) -> StagePlan:
        one_s = _COSTS[name](visibilities, pixels, sources)
        return StagePlan(name, rounds, units, rounds * one_s * max(1, units / side_by_side))

    in_joint = rows * windows / joint
    minor_s = cycles * _COSTS["ical: minor cycle"](0, groups * pixels)
    stages = [
        StagePlan("start", 1, 1, _START_S),
        stage("simulation", windows, rows),
        stage("ical: survey", windows, rows),
        stage("ical: psf", joint, in_joint),
        stage("ical: major cycle", joint, in_joint, cycles + 1),
        StagePlan("ical: minor cycle", cycles, 1, minor_s),
        stage("ical: windows", windows, rows),
    ]
    if parameters.imaging.weighting != "natural":
        stages.insert(3, stage("ical: weights", joint, in_joint))
    if parameters.spectral.enabled:
        stages.append(stage("spectral imaging", windows, rows))
    return (*stages, StagePlan("report", 1, 1, _REPORT_S))


# ------------------------------------------------------------------------------- warnings


def _image_warnings(parameters: Parameters, longest_m: float, wavelength_m: float) -> list[str]:
    found = []
    cell_rad, beam_rad = parameters.cell_rad, wavelength_m / longest_m
    if cell_rad >= beam_rad / 2:
        found.append(
            f"imaging.cellsize = {cell_rad:g} rad is too coarse for the longest baseline of "
            f"{longest_m:,.0f} m: it must be below λ/(2 b) = {beam_rad / 2:.3g} rad at the highest "
            f"frequency; a third of the beam is {beam_rad / 3:.2g} rad"
        )
    edge = cell_rad * parameters.imaging.npixel / 2
    corner_n = math.sqrt(max(1 - 2 * edge**2, 0))
    if corner_n < 0.5:
        found.append(
            f"imaging.npixel × imaging.cellsize = {2 * edge:.3g} rad: the corners stand "
            f"{math.degrees(math.acos(corner_n)):.0f}° from the phase centre, where pixels cover "
            f"{1 / max(corner_n, 0.01):.1f} times as much sky; keep it below "
            f"{math.sqrt(1.5):.2f} rad"
        )
    return found


def _observation_warnings(parameters: Parameters, stations: StationLayout) -> list[str]:
    """Look at the times of the observation.

    Raises
    ------
    ParameterError: the phase centre is below the horizon at all of them.
    """
    found = []
    latitude_rad = GeodeticPosition.from_itrf(stations.reference_itrf_m).latitude_rad
    hour_angles_rad = parameters.hour_angles_rad
    is_down = elevation_rad(hour_angles_rad, parameters.phase_centre.dec_rad, latitude_rad) <= 0
    where = (
        f"dec = {parameters.dec:g}: the phase centre is under the horizon of "
        f"{stations.array_name} at latitude {math.degrees(latitude_rad):.4f} deg"
    )
    if is_down.all():
        raise ParameterError(
            f"{where} at all hour angles; change dec or simulation.hour_angle_min and _max"
        )
    if is_down.any():
        found.append(
            f"{where} at {is_down.sum()} of {len(is_down)} times; it is simulated as if up"
        )
    if parameters.ntimes > 1:
        step_s = float(np.diff(hour_angles_rad).min()) / EARTH_ROTATION_RAD_S
        integration_s = parameters.simulation.integration_time
        if integration_s > step_s:
            found.append(
                f"simulation.integration_time = {integration_s:g} s is longer than the "
                f"{step_s:.3g} s from one of the {parameters.ntimes} times to the next: "
                "integrations overlap"
            )
    return found


def _walltime_warnings(parameters: Parameters, stages: Sequence[StagePlan]) -> list[str]:
    """Look for units that a job of a batch system might not live to finish."""
    if parameters.engine.name not in {"slurm", "htcondor"}:
        return []
    life_s, _ = lifetime_s(parameters.engine.walltime_s)
    longest = max(stages, key=lambda stage: stage.wall_s / stage.rounds)
    round_s = longest.wall_s / longest.rounds
    if round_s < life_s:
        return []
    return [
        f"engine.walltime = {parameters.engine.walltime}: workers live for {_duration(life_s)}, "
        f"and units of {longest.name} may take up to {_duration(round_s)}; ask for a longer one"
    ]


# ---------------------------------------------------------------------------------- shown


def _arcsec(angle_rad: float) -> str:
    return f"{math.degrees(angle_rad) * 3600:.3g}″"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
