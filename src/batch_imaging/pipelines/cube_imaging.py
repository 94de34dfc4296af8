"""Cubes, plane by plane, on any number of workers, that a killed run goes on with.

Each worker writes its planes into `<cube>.partial`, a valid FITS file from the start, and the
journal gets a line. A plane is done if the journal has its key and a file holds pixels of the hash
that stands there; so whatever a kill left is either right or made again, and where parameters or
inputs changed, the planes that do not depend on them are copied into the new cube.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import numpy as np

from batch_imaging import __version__
from batch_imaging.errors import DataError, ProductError
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.journal import Journal, make_key, stamp_of
from batch_imaging.execution.memory import shown_bytes
from batch_imaging.execution.progress import Progress
from batch_imaging.io.fits_image import (
    ImageHeader,
    Provenance,
    partial_path,
    previous_path,
    publishing,
)
from batch_imaging.io.plane_sink import PlaneSink, open_sink, read_plane, remove_cube, write_plane
from batch_imaging.model.beam import RestoringBeam
from batch_imaging.model.image import ImageGeometry
from batch_imaging.parameters import Parameters
from batch_imaging.pipelines.clean_mask import CleanMask
from batch_imaging.pipelines.imaging import ImagingSetup
from batch_imaging.pipelines.plane_imaging import (
    CHUNK_SAMPLES,
    FAILURES,
    KEPT_BYTES,
    PRODUCTS,
    Outcome,
    PlaneResult,
    PlaneSetup,
    content_hash,
    image_plane,
    measure_density,
)
from batch_imaging.pipelines.planes import PlanePlan, Selection

JOURNAL = "journal.jsonl"
DENSITY_PLANES = 16  # of a unit
FINISHED = "finished"
PIXELS_A_BEAM = 4.0
UNITS: dict[str, Literal["Jy/beam", "Jy/pixel", ""]] = {
    "image": "Jy/beam",
    "residual": "Jy/beam",
    "model": "Jy/pixel",
    "mask": "",
}
_CLEANING = {
    "preset",
    "algorithm",
    "nmajor",
    "niter",
    "gain",
    "threshold",
    "fractional_threshold",
    "convergence",
    "scales",
}
# Fitted to the peak of processes with 64² to 2048² pixels.
_PROCESS_BYTES = 250_000_000  # an interpreter with its libraries
_DIRTY_BYTES_PER_PIXEL, _CLEAN_BYTES_PER_PIXEL = 48, 90
_BYTES_PER_SAMPLE = 28  # a row of one channel: uvw and weight
_READING_BYTES = 60  # a sample of two correlations, with its copies on the way


@dataclass(frozen=True, slots=True)
class CubeResult:
    """The cubes by name, and what came of each plane."""

    files: dict[str, Path]
    planes: tuple[PlaneResult, ...]
    header: ImageHeader
    geometry: ImageGeometry

    def count(self, *outcomes: Outcome) -> int:
        return sum(plane.outcome in outcomes for plane in self.planes)


def make_setup(
    plan: PlanePlan,
    selection: Selection,
    parameters: Parameters,
    *,
    clean: bool,
    cell_rad: float | None = None,
    threads: int = 1,
    mask: Path | None = None,
    mask_sigma: float | None = None,
    weight_density: Literal["plane", "all"] = "plane",
    file_format: Literal["fits", "zarr"] = "fits",
) -> PlaneSetup:
    """Return how planes are made: by the groups imaging and ical of the parameters.

    Parameters
    ----------
    cell_rad: by default a quarter of the resolution of the longest baseline.
    mask, mask_sigma: as path and sigma of `CleanMask`.

    Raises
    ------
    DataError: the mask does not fit.
    """
    imaging = parameters.imaging
    cell_rad = cell_rad or 1 / (PIXELS_A_BEAM * plan.max_uv_wavelengths)
    geometry = ImageGeometry(imaging.npixel, cell_rad, plan.phase_centre)
    freq_hz = np.array([plane.freq_hz for plane in plan.planes])
    width_hz = np.array([plane.width_hz for plane in plan.planes])
    return PlaneSetup(
        ImagingSetup(
            geometry,
            imaging.accuracy,
            imaging.weighting,
            imaging.robust,
            threads,
        ),
        selection.column,
        selection.stokes,
        parameters.ical if clean else None,
        CleanMask.of(mask, mask_sigma, geometry, freq_hz, width_hz) if clean else None,
        weight_density,
        file_format=file_format,
    )


def worker_bytes(plan: PlanePlan, setup: PlaneSetup) -> int:
    """Return how much memory a worker is expected to take, whatever the number of planes."""
    n_stokes = len(setup.stokes)
    per_pixel = _CLEAN_BYTES_PER_PIXEL if setup.ical else _DIRTY_BYTES_PER_PIXEL
    per_pixel += (12 if setup.ical else 4) * (n_stokes - 1)
    kept = min(plan.largest * (_BYTES_PER_SAMPLE + 8 * n_stokes), KEPT_BYTES)
    reading = _READING_BYTES * min(plan.largest, CHUNK_SAMPLES)
    return _PROCESS_BYTES + per_pixel * setup.imaging.geometry.npixel**2 + kept + reading


def remove_cubes(folder: Path) -> None:
    """Remove the cubes and the journal of earlier runs from a folder, and nothing else."""
    for name in PRODUCTS:
        for cube in (folder / f"{name}.fits", folder / f"{name}.zarr"):
            for path in (cube, partial_path(cube), previous_path(cube)):
                remove_cube(path)
    for path in folder.glob("density-*.npy"):
        path.unlink()
    (folder / JOURNAL).unlink(missing_ok=True)


class CubeImaging:
    """The imaging of a plan into the cubes of a folder."""

    def __init__(
        self,
        plan: PlanePlan,
        selection: Selection,
        setup: PlaneSetup,
        folder: Path,
        provenance: Provenance,
    ) -> None:
        self._plan, self._setup = plan, setup
        self._paths = tuple(
            folder.absolute() / f"{name}.{setup.file_format}" for name in setup.products
        )
        self._journal = Journal.read(folder.absolute() / JOURNAL)
        how = _described(setup)
        stamps = {path: stamp_of(path) for path in plan.sets}
        density = None
        if self._needs_density:
            density = make_key(
                planes=[plane.identity() for plane in plan.planes], inputs=list(stamps.values())
            )
        self._keys = tuple(
            make_key(
                stage="image",
                version=__version__,
                plane=plane.identity(),
                setup=how,
                inputs=[stamps[path] for path in dict.fromkeys(p.path for p in plane.pieces)],
                density=density,
            )
            for plane in plan.planes
        )
        header = _make_header(plan, selection, setup, provenance)
        self._cube_key = make_key(
            stage="cube", version=__version__, planes=self._keys, header=str(header)
        )
        self._header = replace(header, provenance=replace(provenance, parameter_hash=self.hash))

    def __str__(self) -> str:
        planes, geometry = self._plan.planes, self._setup.imaging.geometry
        field_deg = np.rad2deg(geometry.npixel * geometry.cell_rad)
        low_hz = min(plane.freq_hz - plane.width_hz / 2 for plane in planes)
        high_hz = max(plane.freq_hz + plane.width_hz / 2 for plane in planes)
        size_bytes = 4 * len(self._paths) * len(planes) * len(self._setup.stokes)
        size_bytes *= geometry.npixel**2
        done = self.done()
        empty = sum(not plane.pieces for plane in planes)
        return (
            f"{', '.join(map(str, self._paths))}: {shown_bytes(size_bytes)}\n"
            f"  {len(planes)} planes of field {self._plan.field_name}, Stokes "
            f"{','.join(self._setup.stokes)}, {low_hz / 1e6:.6f} to {high_hz / 1e6:.6f} MHz "
            f"({self._plan.frame}); {empty} without data\n"
            f"  {geometry.npixel}² pixels of {3600 * np.rad2deg(geometry.cell_rad):.4g} arcsec, "
            f"{field_deg:.3g}° wide; {self._setup.imaging.weighting} weighting, "
            f"{'cleaned' if self._setup.ical else 'dirty'}\n"
            f"  {len(done)} planes done, {len(planes) - len(done)} to do; a worker takes about "
            f"{shown_bytes(worker_bytes(self._plan, self._setup))}"
        )

    @property
    def hash(self) -> str:
        """Of all that the cubes depend on."""
        return self._cube_key[:16]

    def done(self) -> dict[int, PlaneResult]:
        """Return the results of planes that were made before and stand somewhere unharmed."""
        found = {}
        for plane, key in zip(self._plan.planes, self._keys, strict=True):
            record = self._journal.records.get(key)
            if record is None or record["outcome"] in FAILURES:
                continue  # a failure may have passed: it is tried again
            result = _result_of(record)
            if all(self._find(k, record) for k in range(len(self._paths))):
                found[plane.index] = replace(result, index=plane.index)
        return found

    def run(self, executor: Executor, progress: Progress, *, max_failed: int) -> CubeResult:
        """Make what is missing, and complete the cubes.

        Raises
        ------
        DataError: no plane could be imaged; it names the reason of the first.
        ProductError: more than ``max_failed`` planes failed, or a cube cannot be written.
        """
        files = {path.stem: path for path in self._paths}
        geometry = self._setup.imaging.geometry
        results = self.done()
        finished = self._journal.records.get(FINISHED, {}).get("cube") == self._cube_key
        if finished and len(results) == len(self._keys) and all(p.exists() for p in self._paths):
            planes = tuple(results[k] for k in sorted(results))
            return CubeResult(files, planes, self._header, geometry)
        sinks = self._begin(results)
        n_chan = len(self._plan.planes)
        todo = [plane for plane in self._plan.planes if plane.index not in results]
        setup = self._setup
        if todo and self._needs_density:
            setup = replace(setup, density=self._write_density(executor, progress))
        failed: list[PlaneResult] = []
        with progress.stage("imaging planes", len(todo)) as bar:
            made = executor.map(image_plane, todo, setup, self._paths, n_chan)
            for result in bar.track(made):
                self._note(result)
                results[result.index] = result
                if result.outcome in FAILURES:
                    failed.append(result)
                if len(failed) > max_failed:
                    raise ProductError(
                        f"{self._paths[0]}: {len(failed)} planes failed, --max-failed-planes is "
                        f"{max_failed}; the last: {result.reason}. What is done is kept for "
                        "another run"
                    )
        planes = tuple(results[k] for k in sorted(results))
        if not any(plane.outcome is Outcome.OK for plane in planes):
            for path in self._paths:
                remove_cube(partial_path(path))
            self._density_path.unlink(missing_ok=True)
            sets = ", ".join(map(str, self._plan.sets))
            raise DataError(
                f"{sets}: none of {len(planes)} planes can be imaged; {planes[0].reason}"
            )
        self._finish(sinks, planes)
        return CubeResult(files, planes, self._header, geometry)

    @property
    def _needs_density(self) -> bool:
        setup = self._setup
        return setup.weight_density == "all" and setup.imaging.weighting != "natural"

    @property
    def _density_path(self) -> Path:
        return self._paths[0].with_name(f"density-{self.hash}.npy")

    def _write_density(self, executor: Executor, progress: Progress) -> Path:
        """Sum the weights of all planes in the cells of the uv plane."""
        path, planes = self._density_path, self._plan.planes
        if not path.exists():
            units = [planes[k : k + DENSITY_PLANES] for k in range(0, len(planes), DENSITY_PLANES)]
            with progress.stage("density of weights", len(units)) as bar:
                parts = bar.track(executor.map(measure_density, units, self._setup))
                density = reduce(np.add, parts)
            with publishing(path) as partial, partial.open("wb") as stream:
                np.save(stream, density)
        return path

    def _begin(self, done: dict[int, PlaneResult]) -> tuple[PlaneSink, ...]:
        """Make partial cubes that hold what is done."""
        try:
            self._paths[0].parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProductError(
                f"{self._paths[0].parent}: cannot be made ({error}); choose another --output"
            ) from error
        self._journal.mend()
        begun = f"begun {self._cube_key}"
        if begun not in self._journal.records:
            now = datetime.now(UTC).replace(microsecond=0)
            self._journal.append(begun, {"date": now.isoformat()})
        date = datetime.fromisoformat(self._journal.records[begun]["date"])
        sinks = tuple(
            open_sink(
                path,
                self._setup.imaging.geometry,
                replace(self._header, unit=UNITS[path.stem]),
                date,
            )
            for path in self._paths
        )
        for sink in sinks:
            partial, previous = partial_path(sink.path), previous_path(sink.path)
            if sink.is_begun():
                continue
            if partial.exists() and not previous.exists():
                partial.replace(previous)
            sink.create()
        for index, key in enumerate(self._keys):
            if index in done:
                self._adopt(index, key, done[index])
        for path in self._paths:
            remove_cube(previous_path(path))
        return sinks

    def _adopt(self, index: int, key: str, result: PlaneResult) -> None:
        """Copy a plane that stands elsewhere to its place in the partial cubes."""
        record = self._journal.records[key]
        n_chan, moved = len(self._keys), False
        for number, path in enumerate(self._paths):
            source = self._find(number, record)
            assert source is not None
            if source == partial_path(path) and (record["index"], record["of"]) == (index, n_chan):
                continue
            planes = list(self._read(source, record))
            for stokes, pixels in enumerate(planes):
                write_plane(path, stokes * n_chan + index, pixels)
            moved = True
        if moved:
            self._note(result)

    def _find(self, number: int, record: dict[str, Any]) -> Path | None:
        """Return the file that holds a recorded plane of a product, if any does."""
        path = self._paths[number]
        for candidate in (partial_path(path), previous_path(path), path):
            try:
                if content_hash(self._read(candidate, record)) == record["content"][number]:
                    return candidate
            except (OSError, EOFError, KeyError, IndexError):
                continue
        return None

    def _read(self, path: Path, record: dict[str, Any]) -> Iterator[np.ndarray]:
        for stokes in range(len(self._setup.stokes)):
            yield read_plane(path, stokes * record["of"] + record["index"])

    def _note(self, result: PlaneResult) -> None:
        values = asdict(result).items()
        # JSON has no NaN
        numbers = {name: None if _is_nan(value) else value for name, value in values}
        record = {"stage": "image", **numbers, "of": len(self._keys), "version": __version__}
        self._journal.append(self._keys[result.index], record)

    def _finish(self, sinks: tuple[PlaneSink, ...], planes: tuple[PlaneResult, ...]) -> None:
        beams = tuple(plane.beam for plane in planes)
        noise = np.array([plane.noise_jy for plane in planes])
        peak = np.array([plane.peak_jy for plane in planes])
        outcomes = [plane.outcome.value for plane in planes]
        for sink in sinks:
            if UNITS[sink.path.stem] != "Jy/beam":
                sink.finish(outcome=outcomes)
            else:
                with_peak = peak if sink.path.stem == "image" else None
                sink.finish(beams, noise, with_peak, outcomes)
        self._density_path.unlink(missing_ok=True)
        self._journal.append(FINISHED, {"cube": self._cube_key})


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _result_of(record: dict[str, Any]) -> PlaneResult:
    values = {name: record[name] for name in PlaneResult.__slots__}
    values["outcome"] = Outcome(values["outcome"])
    values["content"] = tuple(values["content"])
    if values["beam"] is not None:
        values["beam"] = RestoringBeam(**values["beam"])
    for name in ("noise_jy", "peak_jy"):
        values[name] = math.nan if values[name] is None else values[name]
    return PlaneResult(**values)


def _described(setup: PlaneSetup) -> dict[str, Any]:
    """Return what of a setup the pixels depend on."""
    imaging, mask = setup.imaging, None
    if setup.mask is not None:
        path = setup.mask.path
        mask = {"file": path and stamp_of(path), "sigma": setup.mask.sigma}
    return {
        "geometry": asdict(imaging.geometry),
        "accuracy": imaging.accuracy,
        "weighting": imaging.weighting,
        "robust": imaging.robust if imaging.weighting == "robust" else None,
        "column": setup.column,
        "stokes": setup.stokes,
        "clean": setup.ical and setup.ical.model_dump(include=_CLEANING),
        "mask": mask,
    }


def _make_header(
    plan: PlanePlan, selection: Selection, setup: PlaneSetup, provenance: Provenance
) -> ImageHeader:
    begin, end = plan.time_mjd_s
    in_time = selection.axis == "time"
    how = _described(setup)
    cleaned = json.dumps(how["clean"], separators=(", ", ": ")) if how["clean"] else "no"
    return ImageHeader(
        freq_hz=np.array([plane.freq_hz for plane in plan.planes]),
        chan_width_hz=np.array([plane.width_hz for plane in plan.planes]),
        unit="Jy/beam",
        object_name=plan.field_name,
        telescope=plan.stations.array_name,
        observer="",
        start_mjd_s=begin,
        end_mjd_s=end,
        reference_itrf_m=plan.stations.reference_itrf_m,
        provenance=provenance,
        rest_freq_hz=selection.rest_freq_hz,
        history=(
            f"from {', '.join(path.name for path in plan.sets)}, column {setup.column}",
            f"weighting {how['weighting']} by the density of {setup.weight_density}, gridding "
            f"accuracy {how['accuracy']:g}",
            f"cleaned: {cleaned}; mask: {setup.mask or 'none'}",
        ),
        frame=plan.frame,
        stokes=setup.stokes,
        velocity=selection.convention if selection.velocities else None,
        time_mjd_s=np.array([plane.time_mjd_s for plane in plan.planes]) if in_time else None,
    )
