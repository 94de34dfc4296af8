"""Imaging of channels: memory of a worker, and planes a second.

The goals of memory are the plan's own figures.
"""

import tempfile
from pathlib import Path

import numpy as np

from batch_imaging.io.measurement_set import write_measurement_set
from batch_imaging.model.direction import Direction
from batch_imaging.model.geometry import itrf_from_enu, station_uvw_m
from batch_imaging.model.ska_low import SKA1_LOW_CENTRE
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility
from batch_imaging.parameters import load_parameters
from batch_imaging.pipelines.cube_imaging import make_setup, worker_bytes
from batch_imaging.pipelines.planes import Selection, plan_planes
from benchmarks.cubes import measure
from benchmarks.table import Measurement, Table, tabulate

CENTRE = Direction.from_degrees(201.4, -30.5)
N_STATIONS, N_TIMES = 48, 12
N_CHANNELS, QUICK_N_CHANNELS = (16, 128), (8, 32)
NPIXEL, QUICK_NPIXEL = 512, 256


def benchmark_spectral(quick: bool) -> list[Table]:
    """Measure dirty and cleaned cubes of few and of many channels."""
    npixel = QUICK_NPIXEL if quick else NPIXEL
    measurements = []
    for n_chan in QUICK_N_CHANNELS if quick else N_CHANNELS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.ms"
            write_set(path, n_chan)
            for kind, options in (("dirty", ["--no-clean"]), ("cleaned", [])):
                arguments = ["-m", "batch_imaging", "image", str(path), "--quiet"]
                arguments += ["-o", str(Path(folder) / kind), "--npixel", str(npixel), *options]
                cost = measure(arguments)
                start = measure([*arguments, "--dry-run"])
                name = f"{n_chan} channels, {kind}"
                goal_bytes = planned_bytes(path, npixel, clean=not options)
                measurements += [
                    Measurement(
                        f"{name}: peak memory", cost.peak_bytes / 1e6, "MB", goal_bytes / 1e6
                    ),
                    Measurement(
                        f"{name}: speed",
                        n_chan / (cost.wall_s - start.wall_s),
                        "planes/s",
                        at_least=True,
                    ),
                ]
    n_rows = N_TIMES * N_STATIONS * (N_STATIONS - 1) // 2
    note = (
        f"One process with one thread; {n_rows:,} rows, XX and YY, a point source in noise; "
        f"{npixel}² pixels, natural weighting. Speed without the start of the interpreter and the "
        "plan."
    )
    return [tabulate("Imaging of channels", measurements, "", note)]


def planned_bytes(path: Path, npixel: int, *, clean: bool) -> int:
    """Return what the plan gives a worker."""
    selection = Selection()
    parameters = load_parameters({}, [f"imaging.npixel={npixel}"])
    plan = plan_planes([path], selection)
    return worker_bytes(plan, make_setup(plan, selection, parameters, clean=clean))


def write_set(path: Path, n_chan: int) -> None:
    """Write a point source at the phase centre under noise."""
    rng = np.random.default_rng(7)
    enu_m = rng.uniform(-2000, 2000, (N_STATIONS, 3)) * (1, 1, 0.01)
    itrf_m = itrf_from_enu(enu_m, SKA1_LOW_CENTRE)
    times = 59_025.0 * 86_400 + 600.0 * np.arange(N_TIMES)
    first, second = (a.astype(np.int32) for a in np.triu_indices(N_STATIONS, 1))
    stations_m = station_uvw_m(itrf_m, times, CENTRE)
    uvw_m = (stations_m[:, second] - stations_m[:, first]).reshape(-1, 3)
    shape = (len(uvw_m), n_chan, 2)
    noise = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    write_measurement_set(
        path,
        Visibility(
            uvw_m=uvw_m,
            time_mjd_s=np.repeat(times, len(first)),
            antenna1=np.tile(first, N_TIMES),
            antenna2=np.tile(second, N_TIMES),
            vis=(1 + 0.5 * noise).astype(np.complex64),
            weight=np.full(shape, 4, dtype=np.float32),
            freq_hz=150e6 + 5e3 * np.arange(n_chan),
            chan_width_hz=np.full(n_chan, 5e3),
            corr=("XX", "YY"),
            integration_s=10.0,
            phase_centre=CENTRE,
            stations=StationLayout(
                tuple(f"S{k}" for k in range(N_STATIONS)), itrf_m, np.full(N_STATIONS, 38.0), "T"
            ),
        ),
    )
