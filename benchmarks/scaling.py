"""Units of imaging on one and two workers, what the scheduler takes, and a model fitted to both.

`python -m benchmarks.scaling docs/scaling.md` measures, fits, checks what the model predicts for
sizes it was not fitted to, and writes what it says of a night of SKA1-Low on up to 1,000 workers.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from batch_imaging.execution.engines.local import local_executor
from batch_imaging.execution.executor import Executor
from batch_imaging.kernels.gridding import make_dirty, predict_image, set_native_threads
from batch_imaging.model.direction import Direction
from batch_imaging.model.geometry import GeodeticPosition, station_uvw_m, times_for_hour_angles
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.ska_low import select_within, ska1_low
from benchmarks.scaling_model import Cluster, Costs, Observation, Stage, Work, plan_stages
from benchmarks.table import Measurement, Table, markdown_page, tabulate

CENTRE = Direction.from_degrees(0.0, -30.0)
FREQ_HZ = np.array([1e8])
ACCURACY = 1e-4
MINOR_PIXEL_S = 0.25e-6  # of the plan of a run, fitted to its minor cycles
MEMORY_BYTES = 2**30

FITTED = ((2, 256), (10, 256), (2, 1024), (10, 1024), (40, 512))  # integrations, npixel
CHECKED = ((5, 512), (20, 768), (60, 1024))
SCALED = (20, 512)
NIGHT = Observation(stations=512, channels=65_536, integrations=24_000, npixel=8192)
STORAGE_BYTES_S, CLIENT_BYTES_S = 100e9, 1.25e9  # a parallel file system; 10 Gbit/s
TINY_UNITS = 10_000


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel to image: its samples stand in a file, its plane is written beside it."""

    samples: Path
    plane: Path
    npixel: int
    channel: int


def image_channel(unit: Channel) -> float:
    """Read, predict, subtract, invert, make a psf and write; return the seconds it took."""
    begin = time.perf_counter()
    with np.load(unit.samples) as samples:
        uvw_m, vis = samples["uvw_m"], samples["vis"]
    geometry = ImageGeometry(unit.npixel, 0.3 / unit.npixel, CENTRE)
    model = np.zeros(geometry.shape, dtype=np.float32)
    model[unit.npixel // 3, unit.npixel // 4] = 1.0
    residual = vis - predict_image(uvw_m, FREQ_HZ, model, geometry, accuracy=ACCURACY)
    dirty = make_dirty(uvw_m, FREQ_HZ, residual, None, geometry, accuracy=ACCURACY)
    psf = make_dirty(uvw_m, FREQ_HZ, np.ones_like(vis), None, geometry, accuracy=ACCURACY)
    np.save(unit.plane, dirty / psf.max())
    return time.perf_counter() - begin


def do_nothing(unit: int) -> int:
    return unit


def benchmark_scaling(quick: bool) -> list[Table]:
    """Measure, fit and check; then extrapolate."""
    set_native_threads(1)
    with TemporaryDirectory() as folder:
        repeats = 4 if quick else 12
        with local_executor(2, MEMORY_BYTES) as two:
            units = [_measure_unit(Path(folder), two, case, repeats) for case in FITTED]
            works, seconds = zip(*units, strict=True)
            overhead, task_s = _overhead(two, TINY_UNITS // (10 if quick else 1))
            costs = Costs.fitted(works, seconds, task_s)
            checks = [_check(Path(folder), two, case, costs, repeats) for case in CHECKED]
            two_s = {n: _map_s(Path(folder), two, SCALED, n) for n in (repeats, 2 * repeats)}
        with local_executor(1, MEMORY_BYTES) as one:
            one_s = _map_s(Path(folder), one, SCALED, repeats)
    strong, weak = one_s / two_s[repeats] / 2, one_s / two_s[2 * repeats]
    return [
        tabulate(
            "Two workers",
            [
                Measurement("strong scaling, efficiency", strong, "", 0.8, at_least=True),
                Measurement("weak scaling, efficiency", weak, "", 0.8, at_least=True),
                *overhead,
            ],
            "",
            f"{repeats} channels of {SCALED[0]} integrations and {SCALED[1]}² pixels on one "
            "worker and on two, then twice as many on two.",
        ),
        _costs_table(costs),
        Table(
            "Predicted and measured on two workers",
            ("integrations, pixels", "units", "predicted, s", "measured, s", "ratio"),
            tuple(checks),
            "Sizes to which nothing was fitted.",
        ),
        *_night(costs),
    ]


def _measure_unit(
    folder: Path, executor: Executor, case: tuple[int, int], repeats: int
) -> tuple[Work, float]:
    """Return a unit's size and its usual time while all workers do such units, in seconds."""
    units = _channels(folder, case, repeats)
    seconds = list(executor.map(image_channel, units))
    return Work(_n_visibilities(units[0]), case[1] ** 2), float(np.median(seconds))


def _check(
    folder: Path, executor: Executor, case: tuple[int, int], costs: Costs, n_units: int
) -> tuple[str, int, float, float, float]:
    measured_s = _map_s(folder, executor, case, n_units)
    work = Work(_n_visibilities(_channels(folder, case, 1)[0]), case[1] ** 2)
    predicted_s = costs.wall_s(work, n_units, executor.n_workers)
    return f"{case[0]}, {case[1]}²", n_units, predicted_s, measured_s, predicted_s / measured_s


def _map_s(folder: Path, executor: Executor, case: tuple[int, int], n_units: int) -> float:
    units = _channels(folder, case, n_units)
    list(executor.map(image_channel, units[: executor.n_workers]))  # imports
    begin = time.perf_counter()
    list(executor.map(image_channel, units))
    return time.perf_counter() - begin


def _overhead(executor: Executor, n_units: int) -> tuple[list[Measurement], float]:
    """Measure what units that do nothing take, a task each and together, and the memory."""
    list(executor.map(do_nothing, range(200)))
    process = psutil.Process()
    before_bytes, begin = process.memory_info().rss, time.perf_counter()
    for _ in executor.map(do_nothing, range(n_units)):
        pass
    unit_ms = 1e3 * (time.perf_counter() - begin) / n_units
    grown = (process.memory_info().rss - before_bytes) / 2**20
    cpu = time.process_time()
    n_tasks = 200
    for unit in range(n_tasks):
        executor.run(do_nothing, unit)
    task_s = (time.process_time() - cpu) / n_tasks  # of this process, which holds the scheduler
    return [
        Measurement(f"{n_units:,} units that do nothing, each", unit_ms, "ms", 1.0),
        Measurement("… memory of client and scheduler, more", grown, "MiB", 50.0),
        Measurement("scheduler and client, a task", 1e3 * task_s, "ms"),
    ], task_s


def _channels(folder: Path, case: tuple[int, int], n_units: int) -> list[Channel]:
    integrations, npixel = case
    path = folder / f"{integrations}.npz"
    if not path.exists():
        uvw_m = _uvw_m(integrations)
        rng = np.random.default_rng(1)
        vis = rng.normal(size=(2, len(uvw_m), 1)).astype(np.float32)
        np.savez(path, uvw_m=uvw_m, vis=vis[0] + 1j * vis[1])
    return [Channel(path, folder / f"{k}.npy", npixel, k) for k in range(n_units)]


def _uvw_m(integrations: int) -> np.ndarray:
    stations = select_within(ska1_low(), 750.0)
    longitude_rad = GeodeticPosition.from_itrf(stations.reference_itrf_m).longitude_rad
    hour_angles_rad = np.deg2rad(np.linspace(-30, 30, integrations))
    times = times_for_hour_angles(hour_angles_rad, CENTRE, longitude_rad, "2020-05-23")
    first, second = np.triu_indices(len(stations), 1)
    stations_m = station_uvw_m(stations.itrf_m, times, CENTRE)
    return np.asarray((stations_m[:, second] - stations_m[:, first]).reshape(-1, 3))


def _n_visibilities(unit: Channel) -> int:
    with np.load(unit.samples) as samples:
        return int(samples["vis"].size)


def _costs_table(costs: Costs) -> Table:
    rows = (
        ("a unit", 1e3 * costs.unit_s, "ms"),
        ("a visibility: predicted, gridded twice", 1e6 * costs.visibility_s, "µs"),
        ("a pixel: transformed three times, written", 1e6 * costs.pixel_s, "µs"),
        ("a task: scheduler and client", 1e3 * costs.task_s, "ms"),
    )
    return Table("Fitted costs, of one core", ("of", "cost", "unit"), rows)


def _night(costs: Costs) -> list[Table]:
    stages = plan_stages(NIGHT, costs, MINOR_PIXEL_S)
    sizes = Table(
        "A night of SKA1-Low: what is to be done",
        ("stage", "tasks", "flop", "storage, TB", "through the client, TB", "cores, core h"),
        tuple(
            (
                s.name,
                s.tasks,
                s.flop,
                s.storage_bytes / 1e12,
                s.client_bytes / 1e12,
                s.core_s / 3600,
            )
            for s in stages
        ),
        f"{NIGHT.stations} stations, {NIGHT.channels:,} channels, 6 h in {NIGHT.integrations:,} "
        f"integrations of 0.9 s: {NIGHT.visibilities:.3g} visibilities, "
        f"{NIGHT.data_bytes / 1e15:.3g} PB; {NIGHT.npixel}² pixels; {NIGHT.cycles} major cycles.",
    )
    return [sizes, _times(stages, costs)]


def _times(stages: Sequence[Stage], costs: Costs) -> Table:
    rows = []
    for workers in (1, 10, 100, 1000):
        cluster = Cluster(workers, STORAGE_BYTES_S, CLIENT_BYTES_S)
        for stage in stages:
            needs = stage.needs_s(cluster, costs)
            slowest = max(needs, key=lambda name: needs[name])
            rows.append((stage.name, workers, *(s / 3600 for s in needs.values()), slowest))
    return Table(
        "A night of SKA1-Low: hours",
        (*("stage", "workers", "cores", "storage", "scheduler", "client", "one core"), "slowest"),
        tuple(rows),
        f"Workers of one core. Assumed, not measured: storage of {STORAGE_BYTES_S / 1e9:g} GB/s "
        f"for all, {CLIENT_BYTES_S / 1e9:g} GB/s into the client, which adds up the images of the "
        "units. A stage takes as long as its slowest column.",
    )


if __name__ == "__main__":
    introduction = [
        "Written by `python -m benchmarks.scaling docs/scaling.md`; do not edit.",
        "How imaging grows with workers and data: measured here, with a model fitted to it, and",
        "what the model says of a night that nobody here can run.",
    ]
    tables = benchmark_scaling(quick="--quick" in sys.argv)
    page = markdown_page("Scaling", introduction, tables)
    Path(sys.argv[1]).write_text(page)
