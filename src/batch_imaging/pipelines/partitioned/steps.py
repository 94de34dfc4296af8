"""What each job of partitioned imaging does: from its input files to its output files.

Sums over parts run in double precision, and weights come from the density of all parts. Data are
taken as calibrated: no gains are solved for.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from batch_imaging import __version__
from batch_imaging.errors import DataError, ProductError
from batch_imaging.execution.graph import Node
from batch_imaging.execution.journal import make_key, stamp_of
from batch_imaging.io.fits_image import ImageHeader, Provenance, publishing, write_fits_image
from batch_imaging.kernels.deconvolution import deconvolve, weighted_mean
from batch_imaging.kernels.gridding import set_native_threads
from batch_imaging.kernels.restoring import convolve_with_beam
from batch_imaging.kernels.stokes import make_stokes, stokes_recipe
from batch_imaging.kernels.weighting import sum_weight_density
from batch_imaging.model.continuum import ContinuumModel
from batch_imaging.model.visibility import Visibility
from batch_imaging.pipelines.imaging import (
    ImagingSetup,
    WeightedImage,
    beam_of_psf,
    invert,
    predict_model,
)
from batch_imaging.pipelines.joint import (
    MajorCycle,
    clean_settings,
    has_diverged,
    measure_cycle,
    reason_to_stop,
)
from batch_imaging.pipelines.partitioned.graph import (
    DENSITY,
    GOING_ON,
    PRODUCTS,
    PSF,
    STOPPED,
    density_of,
    make_graph,
    model_of,
    psf_of,
    residual_of,
    status_of,
)
from batch_imaging.pipelines.partitioned.partition import Part, read_part, write_parts
from batch_imaging.pipelines.partitioned.plan import PLAN, ImagingPlan, read_plan
from batch_imaging.pipelines.units import LoadedUnit

Arrays = dict[str, NDArray[Any]]


def write_plan(plan: ImagingPlan, folder: Path) -> bool:
    """Write a plan; where another stands, all that was made by it is removed, its products too.

    Where the same stands already nothing changes: what is done need not be done again. Return
    whether it changed.
    """
    path, text = folder / PLAN, TypeAdapter(ImagingPlan).dump_json(plan, indent=1) + b"\n"
    if path.exists():
        if path.read_bytes() == text:
            return False
        for node in make_graph(read_plan(folder)).nodes():
            for name in (*node.outputs, _record_name(node)):
                _remove(folder / name)
    with publishing(path) as partial:
        partial.write_bytes(text)
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def run_node(node: Node, folder: Path) -> bool:
    """Do what a node says in a folder, unless it is done; return whether it was (a unit of work).

    A node is done if its outputs stand as it left them, and its inputs are those it had.

    Raises
    ------
    ProductError: an input is missing, or an output cannot be written.
    """
    plan = read_plan(folder)
    inputs = [_found(folder, name) for name in node.inputs]
    if missing := [path for path in inputs if not path.exists()]:
        raise ProductError(
            f"{node.name}: its input {missing[0]} is not there; run the units before it first"
        )
    key = make_key(version=__version__, inputs=[stamp_of(path) for path in inputs])
    outputs = [folder / name for name in node.outputs]
    record = folder / _record_name(node)
    if record.exists() and record.read_text() == _record(key, outputs):
        return False
    set_native_threads(plan.cpus)
    options = dict(node.options)
    STEPS[node.step](_Job(plan, folder, options.get("--cycle", 0), options.get("--part", 0)))
    with publishing(record) as partial:
        partial.write_text(_record(key, outputs))
    return True


def _record_name(node: Node) -> str:
    return f"{node.name}.done"


def _found(folder: Path, name: str) -> Path:
    """Return where an input is: a batch system brings it into the folder, wherever it was."""
    here = folder / Path(name).name
    return here if here.exists() else folder / name


def _record(key: str, outputs: Sequence[Path]) -> str:
    done = all(path.exists() for path in outputs)
    return json.dumps({"inputs": key, "outputs": [stamp_of(p) for p in outputs] if done else None})


@dataclass(frozen=True, slots=True)
class _Job:
    """The folder in which a step works, and its numbers."""

    plan: ImagingPlan
    folder: Path
    cycle: int
    part: int

    def load(self, name: str) -> Arrays:
        with np.load(self.folder / name) as stored:
            return dict(stored)

    def save(self, name: str, **arrays: Any) -> None:
        with publishing(self.folder / name) as partial, partial.open("wb") as stream:
            np.savez(stream, **arrays)

    def load_model(self, cycle: int) -> ContinuumModel:
        """Return the model at the start of a major cycle."""
        geometry = self.plan.geometry
        if cycle == 0:
            planes_hz = self.load(PSF)["freq_hz"]
            return ContinuumModel.empty(geometry, len(planes_hz), float(planes_hz.mean()))
        stored = self.load(model_of(cycle))
        ref_freq_hz = float(stored["ref_freq_hz"])
        return ContinuumModel(geometry, stored["pixels"], stored["terms_jy"], ref_freq_hz)

    def save_model(self, cycle: int, model: ContinuumModel) -> None:
        self.save(
            model_of(cycle),
            pixels=model.pixels,
            terms_jy=model.terms_jy,
            ref_freq_hz=model.ref_freq_hz,
        )

    def read_data(self) -> tuple[Visibility, NDArray[np.complex64], NDArray[np.float32]]:
        """Return the part, and its Stokes I visibilities and weights, (row, chan)."""
        partition = self.plan.partition
        part, column = partition.parts[self.part], partition.column
        if partition.real:
            part, column = Part(self.folder / partition.file_of(self.part)), "DATA"
        block, _ = read_part(part, column)
        recipe = stokes_recipe("I", block.corr)
        assert recipe is not None  # the partition saw to it
        vis, weight = make_stokes(block.vis, block.weight, block.corr, [recipe])
        return block, vis[0], weight

    def imaging_setup(self) -> ImagingSetup:
        by_density = self.plan.weighted_by_density
        return self.plan.setup(self.load(DENSITY)["density"] if by_density else None)


def _partition(job: _Job) -> None:
    partition = job.plan.partition
    parts = [replace(p, path=_found(job.folder, str(p.path))) for p in partition.parts]
    write_parts(replace(partition, parts=tuple(parts)), job.folder)


def _density(job: _Job) -> None:
    block, _, weight = job.read_data()
    density = sum_weight_density(block.uvw_m, block.freq_hz, weight, job.plan.geometry)
    job.save(density_of(job.part), density=density)


def _sum_density(job: _Job) -> None:
    npixel = job.plan.geometry.npixel
    total = np.zeros((npixel // 2 + 1, npixel))
    for number in range(len(job.plan.partition.parts)):
        total += job.load(density_of(number))["density"]
    job.save(DENSITY, density=total)


def _grid(job: _Job) -> None:
    block, vis, weight = job.read_data()
    setup = job.imaging_setup()
    psf = _invert_planes(block, np.ones_like(vis), weight, setup, job.plan)
    job.save(psf_of(job.part), **psf)
    job.save(residual_of(0, job.part), **_invert_planes(block, vis, weight, setup, job.plan))


def _subtract(job: _Job) -> None:
    block, vis, weight = job.read_data()
    setup, model = job.imaging_setup(), job.load_model(job.cycle)
    loaded = LoadedUnit(block, np.zeros(len(block.freq_hz), dtype=np.intp), factors=None)
    left = vis - predict_model(loaded, model, setup)
    images = _invert_planes(block, left, weight, setup, job.plan)
    job.save(residual_of(job.cycle, job.part), **images)


def _invert_planes(
    block: Visibility,
    vis: NDArray[np.complexfloating],
    weight: NDArray[np.float32],
    setup: ImagingSetup,
    plan: ImagingPlan,
) -> Arrays:
    """Return images (k, npixel, npixel) and their weights (k,) of the k planes with channels."""
    plane_of_chan = plan.plane_of(block.freq_hz)
    numbers = np.unique(plane_of_chan)
    images = []
    for number in numbers:
        chan = plane_of_chan == number
        part = replace(block, freq_hz=block.freq_hz[chan])
        images.append(invert(part, vis[:, chan], weight[:, chan], setup))
    return {
        "plane": numbers,
        "pixels": np.stack([image.pixels for image in images]),
        "weight": np.array([image.weight for image in images]),
    }


def _sum(job: _Job) -> None:
    if job.cycle:
        planes = job.load(PSF)["plane"]
        residual, _ = _sum_parts(job, lambda part: residual_of(job.cycle, part), planes)
        job.save(residual_of(job.cycle), pixels=residual)
        return
    psf, weight = _sum_parts(job, psf_of, np.arange(len(job.plan.planes)))
    used = np.flatnonzero(weight)
    if len(used) == 0:
        raise DataError(
            f"{job.plan.partition.parts[0].path}: all samples of this and all other sets are "
            "flagged or without weight: there is nothing to image"
        )
    residual, _ = _sum_parts(job, lambda part: residual_of(0, part), used)
    job.save(residual_of(0), pixels=residual)
    planes_used = [job.plan.planes[plane] for plane in used]
    job.save(
        PSF,
        plane=used,
        pixels=psf[used],
        weight=weight[used],
        freq_hz=np.array([plane.freq_hz for plane in planes_used]),
        range_hz=np.array([(plane.low_hz, plane.high_hz) for plane in planes_used]),
    )


def _sum_parts(
    job: _Job, name_of: Callable[[int], str], planes: NDArray[np.intp]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the normalised images of ``planes``, Jy/beam, and their sums of weights."""
    sums = {int(p): WeightedImage(np.zeros(job.plan.geometry.shape), 0.0) for p in planes}
    for number in range(len(job.plan.partition.parts)):
        stored = job.load(name_of(number))
        for plane, pixels, weight in zip(
            stored["plane"].tolist(), stored["pixels"], stored["weight"].tolist(), strict=True
        ):
            if plane in sums:
                sums[plane] += WeightedImage(pixels, weight)
    images = sums.values()
    return np.stack([i.normalised() for i in images]), np.array([i.weight for i in images])


def _deconvolve(job: _Job) -> None:
    """Stop, or clean; a model for the next cycle, or for the restored image, is written anyway."""
    plan, psf = job.plan, job.load(PSF)
    residual, model = job.load(residual_of(job.cycle))["pixels"], job.load_model(job.cycle)
    mean = weighted_mean(residual, psf["weight"])
    before = _read_cycles(job.folder / status_of(job.cycle - 1)) if job.cycle else []
    cycle = measure_cycle(job.cycle, "", mean, len(model))
    best, chosen = job.cycle, model
    if has_diverged(cycle, before):
        reason = "diverged: the last cycle raised the residual, so its components are not used"
        best, chosen = job.cycle - 1, job.load_model(job.cycle - 1)
    else:
        reason = reason_to_stop(plan.ical, cycle, before)
    if not reason:
        beam = beam_of_psf(weighted_mean(psf["pixels"], psf["weight"]), plan.setup(), "all parts")
        cleaned = deconvolve(
            residual,
            psf["pixels"],
            psf["range_hz"],
            psf["weight"],
            plan.geometry.cell_rad,
            beam.bmaj_rad,
            clean_settings(plan.ical, len(residual), cycle.noise_jy, first=False),
            plan.cpus,
        )
        if not np.isfinite(cleaned.components).all():
            raise DataError(
                f"deconvolution in major cycle {job.cycle} gave values that are not finite; try a "
                "lower ical.gain or ical.nmoment = 1"
            )
        chosen = model.plus(cleaned.components, psf["freq_hz"])
        cycle = replace(cycle, iterations=cleaned.iterations, components=len(chosen))
    job.save_model(job.cycle + 1, chosen)
    status = {
        "status": STOPPED if reason else GOING_ON,
        "reason": reason,
        "best_cycle": best,
        "cycles": [asdict(done) for done in (*before, cycle)],
    }
    with publishing(job.folder / status_of(job.cycle)) as partial:
        partial.write_text(json.dumps(status, indent=1) + "\n")


def _read_cycles(path: Path) -> list[MajorCycle]:
    return [MajorCycle(**cycle) for cycle in json.loads(path.read_text())["cycles"]]


def _restore(job: _Job) -> None:
    plan, psf = job.plan, job.load(PSF)
    status = json.loads((job.folder / status_of(job.cycle)).read_text())
    weight, model = psf["weight"], job.load_model(job.cycle + 1)
    residual = weighted_mean(job.load(residual_of(status["best_cycle"]))["pixels"], weight)
    mean_psf = weighted_mean(psf["pixels"], weight)
    beam = beam_of_psf(mean_psf, plan.setup(), "all parts")
    flux = weighted_mean(np.stack([model.plane(f) for f in psf["freq_hz"]]), weight)
    restored = residual + convolve_with_beam(flux, beam, plan.geometry.cell_rad)
    low_hz, high_hz = float(psf["range_hz"].min()), float(psf["range_hz"].max())
    target = plan.target
    header = ImageHeader(
        freq_hz=np.array([np.average(psf["freq_hz"], weights=weight)]),
        chan_width_hz=np.array([high_hz - low_hz]),
        unit="Jy/beam",
        object_name=target.field_name,
        telescope=target.telescope,
        observer="",
        start_mjd_s=target.time_range_mjd_s[0],
        end_mjd_s=target.time_range_mjd_s[1],
        reference_itrf_m=np.array(target.reference_itrf_m),
        provenance=Provenance("batch_imaging", __version__, "", "", "", plan.parameter_hash),
        beams=(beam,),
        history=(f"{len(plan.partition.parts)} parts by {plan.partition.by}", status["reason"]),
    )
    images = {
        "restored": (restored, header),
        "residual": (residual, header),
        "model": (flux, replace(header, unit="Jy/pixel", beams=())),
        "psf": (mean_psf, replace(header, unit="")),
    }
    for name, (pixels, its_header) in images.items():
        write_fits_image(job.folder / f"{name}.fits", pixels, plan.geometry, its_header)


STEPS: dict[str, Callable[[_Job], None]] = {
    "partition": _partition,
    "density": _density,
    "sum-density": _sum_density,
    "grid": _grid,
    "subtract": _subtract,
    "sum": _sum,
    "deconvolve": _deconvolve,
    "restore": _restore,
}


def products(folder: Path) -> tuple[Path, ...]:
    """Return the images of a workflow that has ended.

    Raises
    ------
    ProductError: it has not.
    """
    paths = tuple(folder / f"{name}.fits" for name in PRODUCTS)
    if missing := [path for path in paths if not path.exists()]:
        raise ProductError(f"{missing[0]}: is not there; look at the logs of the jobs in {folder}")
    return paths


def stopped_because(folder: Path) -> tuple[int, str]:
    """Return the last major cycle of a workflow that has ended, and why it was the last."""
    for path in sorted(folder.glob("status-*.json")):
        status = json.loads(path.read_text())
        if status["status"] == STOPPED:
            return len(status["cycles"]) - 1, status["reason"]
    raise ProductError(f"{folder}: no major cycle has ended here")
