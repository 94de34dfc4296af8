"""Imaging of channels: memory of a worker, dirty cubes against CASA, and planes written to disk.

CASA runs where the environment variable BATCH_IMAGING_CASA_PYTHON names a Python with casatasks.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from batch_imaging.io.fits_image import (
    FitsCubeWriter,
    ImageHeader,
    Provenance,
    partial_path,
    write_plane,
)
from batch_imaging.io.measurement_set import read_measurement_set, write_measurement_set
from batch_imaging.io.zarr_cube import ZarrPlaneWriter, write_zarr_plane
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.model.direction import Direction
from batch_imaging.model.geometry import itrf_from_enu, station_uvw_m
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.ska_low import SKA1_LOW_CENTRE
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility, stokes_i
from batch_imaging.parameters import load_parameters
from batch_imaging.pipelines.cube_imaging import make_setup, worker_bytes
from batch_imaging.pipelines.planes import Selection, plan_planes
from benchmarks.cost import Cost, measure
from benchmarks.table import Measurement, Table, tabulate

CENTRE = Direction.from_degrees(201.4, -30.5)
SOURCE_LM = 0.0075, -0.0125
N_STATIONS, N_TIMES = 48, 12
N_CHANNELS, QUICK_N_CHANNELS = (16, 64, 256, 512), (16, 64)
MOST_CLEANED = 64  # channels: the others would take half an hour
NPIXEL, QUICK_NPIXEL = 256, 128

CHECKED = 40  # pixels of a channel that are summed directly
COMPARED_STATIONS, QUICK_COMPARED_STATIONS = 128, 48
COMPARED_CHANNELS, QUICK_COMPARED_CHANNELS = 48, 4
COMPARED_NPIXEL, QUICK_COMPARED_NPIXEL = 1024, 512
CELL_ARCSEC = 30.0
CASA_PYTHON = "BATCH_IMAGING_CASA_PYTHON"
TCLEAN = """
import os, sys
import numpy as np
ms, output, npixel, cell, n_chan = sys.argv[1:]
os.chdir(os.path.dirname(output))  # where it leaves its log
from casatasks import tclean
from casatools import image
tclean(
    vis=ms, imagename=output, imsize=int(npixel), cell=cell + "arcsec", specmode="cube",
    nchan=int(n_chan), start=0, width=1, outframe="TOPO", interpolation="nearest",
    gridder="wproject", wprojplanes=-1, weighting="natural", pblimit=-1, niter=0,
    calcpsf=True, restoration=False, parallel=False,
)
tool = image()
tool.open(output + ".residual")
np.save(output + ".npy", tool.getchunk()[:, :, 0].T)
"""

WRITERS = 2
PLANE_NPIXEL, N_PLANES, QUICK_N_PLANES = 1024, 256, 64
DD_SHARE, ROUNDS = 0.7, 3


def benchmark_spectral(quick: bool) -> list[Table]:
    """Measure memory and speed of a worker, the error of what it makes, and how it is written."""
    return [_memory(quick), _against_tclean(quick), _writing(quick)]


def _memory(quick: bool) -> Table:
    npixel = QUICK_NPIXEL if quick else NPIXEL
    measurements = []
    for n_chan in QUICK_N_CHANNELS if quick else N_CHANNELS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.ms"
            write_set(path, n_chan)
            kinds = {"dirty": ["--no-clean"], "cleaned": []}
            for kind in kinds if n_chan <= MOST_CLEANED else ("dirty",):
                arguments = ["-m", "batch_imaging", "image", str(path), "--quiet"]
                arguments += ["-o", str(Path(folder) / kind), "--npixel", str(npixel), *kinds[kind]]
                cost, start = measure(arguments), measure([*arguments, "--dry-run"])
                planned_mb = planned_bytes(path, npixel, clean=kind == "cleaned") / 1e6
                name = f"{n_chan} channels, {kind}"
                measurements += [
                    Measurement(
                        f"{name}: peak memory, planned {planned_mb:.0f} MB",
                        cost.peak_bytes / 1e6,
                        "MB",
                        1.2 * planned_mb,
                    ),
                    Measurement(
                        f"{name}: planes a second of processor time",
                        n_chan / (cost.cpu_s - start.cpu_s),
                        "",
                        at_least=True,
                    ),
                ]
    n_rows = N_TIMES * N_STATIONS * (N_STATIONS - 1) // 2
    note = (
        f"One process with one thread; {n_rows:,} rows, XX and YY, a point source in noise; "
        f"{npixel}² pixels, natural weighting. The goal is the plan's figure and a fifth. Speed "
        "is that without the start of the interpreter and the plan."
    )
    return tabulate("Memory and speed of a worker", measurements, "", note)


def planned_bytes(path: Path, npixel: int, *, clean: bool) -> int:
    """Return what the plan gives a worker."""
    selection = Selection()
    parameters = load_parameters({}, [f"imaging.npixel={npixel}"])
    plan = plan_planes([path], selection)
    return worker_bytes(plan, make_setup(plan, selection, parameters, clean=clean))


def _against_tclean(quick: bool) -> Table:
    n_chan = QUICK_COMPARED_CHANNELS if quick else COMPARED_CHANNELS
    geometry = ImageGeometry(
        QUICK_COMPARED_NPIXEL if quick else COMPARED_NPIXEL, np.deg2rad(CELL_ARCSEC / 3600), CENTRE
    )
    with tempfile.TemporaryDirectory() as folder:
        path, output = Path(folder) / "a.ms", Path(folder) / "ours"
        write_set(path, n_chan, QUICK_COMPARED_STATIONS if quick else COMPARED_STATIONS)
        arguments = ["-m", "batch_imaging", "image", str(path), "--quiet", "--no-clean"]
        arguments += ["-o", str(output), "--npixel", str(geometry.npixel)]
        ours = measure([*arguments, "--cellsize", f"{CELL_ARCSEC}arcsec"])
        direct = list(_direct_sums(path, geometry))
        error = _error(fits.getdata(output / "image.fits")[0], direct)
        casa = os.environ.get(CASA_PYTHON)
        theirs = their_error = None
        if casa:
            theirs, cube = _run_tclean(casa, path, Path(folder) / "casa", geometry.npixel, n_chan)
            their_error = _error(cube, direct)
    measurements = [
        Measurement(
            "processor time", ours.cpu_s, "s", theirs and theirs.cpu_s / 5, theirs and theirs.cpu_s
        ),
        Measurement(
            "error against a direct sum", error, "", their_error and their_error / 100, their_error
        ),
        Measurement(
            "peak memory", ours.peak_bytes / 1e6, "MB", peer=theirs and theirs.peak_bytes / 1e6
        ),
    ]
    note = (
        f"The same set of {n_chan} channels to {geometry.npixel}² pixels of {CELL_ARCSEC:g} "
        "arcsec, natural weighting, one thread, whole processes; tclean with "
        "specmode='cube', gridder='wproject' and as many w planes as it chooses. Errors are the "
        f"largest of {CHECKED} pixels in each of {len(direct)} channels, over the peak."
    )
    if not casa:
        note += f" tclean was not run: {CASA_PYTHON} names no Python with casatasks."
    return tabulate("Dirty cube", measurements, "tclean", note)


DirectSums = tuple[int, NDArray[np.integer], NDArray[np.integer], NDArray[np.float64]]


def _direct_sums(path: Path, geometry: ImageGeometry) -> Iterator[DirectSums]:
    """Yield channel, rows and columns of some pixels, the source among them, and their values."""
    block = read_measurement_set(path)
    vis, weight = stokes_i(block)
    rng = np.random.default_rng(5)
    l_rad, m_rad = (axis.ravel() for axis in geometry.lm_grid())
    for channel in np.linspace(0, len(block.freq_hz) - 1, 3).astype(int):
        rows, columns = rng.integers(0, geometry.npixel, (2, CHECKED))
        rows[0], columns[0] = _source_pixel(geometry)
        l, m = l_rad[columns], m_rad[rows]
        turns = block.uvw_m @ np.stack([l, m, np.sqrt(1 - l**2 - m**2) - 1])
        waves = np.exp(2j * np.pi * block.freq_hz[channel] / SPEED_OF_LIGHT_M_S * turns)
        weighted = vis[:, channel].astype(complex) * weight[:, channel]
        values = (weighted @ waves).real / weight[:, channel].sum(dtype=float)
        yield int(channel), rows, columns, values


def _source_pixel(geometry: ImageGeometry) -> tuple[int, int]:
    l, m = SOURCE_LM
    half = geometry.npixel // 2
    return half + round(m / geometry.cell_rad), half - round(l / geometry.cell_rad)


def _error(cube: NDArray[np.floating], direct: list[DirectSums]) -> float:
    """Return the largest error over the peak; cube: (chan, row, column)."""
    errors = [abs(cube[chan, rows, columns] - values) for chan, rows, columns, values in direct]
    return float(np.max(errors) / max(values.max() for *_, values in direct))


def _run_tclean(
    python: str, path: Path, output: Path, npixel: int, n_chan: int
) -> tuple[Cost, NDArray[np.floating]]:
    output.mkdir()
    name = str(output / "cube")
    cost = measure(
        ["-c", TCLEAN, str(path), name, str(npixel), str(CELL_ARCSEC), str(n_chan)], python
    )
    return cost, np.load(f"{name}.npy")


def _writing(quick: bool) -> Table:
    n_planes = QUICK_N_PLANES if quick else N_PLANES
    geometry, header = ImageGeometry(PLANE_NPIXEL, 1e-5, CENTRE), _header(n_planes)
    size_mb = 4e-6 * n_planes * PLANE_NPIXEL**2
    measurements = []
    with (
        tempfile.TemporaryDirectory() as folder,
        ProcessPoolExecutor(WRITERS, get_context("spawn")) as pool,
    ):
        list(pool.map(_wake, range(WRITERS)))
        cubes: tuple[tuple[str, FitsCubeWriter | ZarrPlaneWriter, Callable[..., None]], ...] = (
            ("FITS", FitsCubeWriter(Path(folder) / "a.fits", geometry, header), write_plane),
            (
                "zarr",
                ZarrPlaneWriter(Path(folder) / "a.zarr", geometry, header, datetime.now(UTC)),
                write_zarr_plane,
            ),
        )
        for kind, writer, write in cubes:
            share = partial(_write_share, write, writer.path, n_planes)
            ours, dd = [], []
            for _ in range(ROUNDS):
                dd.append(_dd(Path(folder), n_planes))
                begin = time.perf_counter()
                writer.create()
                list(pool.map(share, range(WRITERS)))
                ours.append(size_mb / (time.perf_counter() - begin))
            measurements.append(
                Measurement(kind, max(ours), "MB/s", DD_SHARE * max(dd), max(dd), at_least=True)
            )
    note = (
        f"{n_planes} planes of {PLANE_NPIXEL}² pixels of noise, {size_mb:.0f} MB, from {WRITERS} "
        "processes in turns into a cube that is laid out first, until all is on the disk (fsync); "
        "dd conv=fsync copies a file of as much noise, in turns with them. The best of "
        f"{ROUNDS} each; the goal is 70 % of dd."
    )
    return tabulate("Planes written to disk", measurements, "dd", note)


def _header(n_chan: int) -> ImageHeader:
    return ImageHeader(
        freq_hz=1.4e9 + 1e4 * np.arange(n_chan),
        chan_width_hz=np.full(n_chan, 1e4),
        unit="Jy/beam",
        object_name="",
        telescope="",
        observer="",
        start_mjd_s=5e9,
        end_mjd_s=5e9,
        reference_itrf_m=np.zeros(3),
        provenance=Provenance("", "", "", "", "", ""),
    )


def _wake(_: int) -> None:
    """Start a process, and make what it writes, before its time is taken."""
    _noise_plane()
    time.sleep(0.2)


@cache
def _noise_plane() -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(PLANE_NPIXEL,) * 2).astype(np.float32)


def _write_share(
    write: Callable[[Path, int, NDArray[np.float32]], None], cube: Path, n_planes: int, first: int
) -> None:
    """Write every so many-th plane, and wait until the files are on the disk."""
    plane = _noise_plane()
    for index in range(first, n_planes, WRITERS):
        write(cube, index, plane)
    partial_cube = partial_path(cube)
    files = [partial_cube] if partial_cube.is_file() else partial_cube.rglob("*")
    for path in filter(Path.is_file, files):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _dd(folder: Path, n_planes: int) -> float:
    """Return MB/s at which dd writes ``n_planes`` of noise to a new file."""
    plane, source, path = _noise_plane().tobytes(), folder / "noise", folder / "copy"
    source.write_bytes(plane * n_planes)
    begin = time.perf_counter()
    subprocess.run(
        ["dd", f"if={source}", f"of={path}", f"bs={len(plane)}", "conv=fsync", "status=none"],
        check=True,
    )
    rate = 1e-6 * len(plane) * n_planes / (time.perf_counter() - begin)
    path.unlink()
    source.unlink()
    return rate


def write_set(path: Path, n_chan: int, n_stations: int = N_STATIONS) -> None:
    """Write a point source off the phase centre, under noise."""
    rng = np.random.default_rng(7)
    enu_m = rng.uniform(-2000, 2000, (n_stations, 3)) * (1, 1, 0.01)
    itrf_m = itrf_from_enu(enu_m, SKA1_LOW_CENTRE)
    times = 59_025.0 * 86_400 + 600.0 * np.arange(N_TIMES)
    first, second = (a.astype(np.int32) for a in np.triu_indices(n_stations, 1))
    stations_m = station_uvw_m(itrf_m, times, CENTRE)
    uvw_m = (stations_m[:, second] - stations_m[:, first]).reshape(-1, 3)
    freq_hz = 150e6 + 5e3 * np.arange(n_chan)
    l, m = SOURCE_LM
    turns = uvw_m @ (l, m, np.sqrt(1 - l**2 - m**2) - 1)
    waves = np.exp(-2j * np.pi / SPEED_OF_LIGHT_M_S * np.outer(turns, freq_hz))
    shape = (len(uvw_m), n_chan, 2)
    noise = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    write_measurement_set(
        path,
        Visibility(
            uvw_m=uvw_m,
            time_mjd_s=np.repeat(times, len(first)),
            antenna1=np.tile(first, N_TIMES),
            antenna2=np.tile(second, N_TIMES),
            vis=(waves[:, :, np.newaxis] + 0.5 * noise).astype(np.complex64),
            weight=np.full(shape, 4, dtype=np.float32),
            freq_hz=freq_hz,
            chan_width_hz=np.full(n_chan, 5e3),
            corr=("XX", "YY"),
            integration_s=10.0,
            phase_centre=CENTRE,
            stations=StationLayout(
                tuple(f"S{k}" for k in range(n_stations)), itrf_m, np.full(n_stations, 38.0), "ATCA"
            ),
        ),
    )
