"""Measurement Sets of a buffer, and their imaging along an axis as a job: led by a worker."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from batch_imaging import __version__
from batch_imaging.errors import DataError, ParameterError, ResourceError
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.memory import shown_bytes
from batch_imaging.execution.progress import Progress
from batch_imaging.io.fits_image import Provenance
from batch_imaging.model.spectral_axis import parse_ranges
from batch_imaging.parameters import Image, Parameters, parameter_hash
from batch_imaging.parameters import Input as InputParameters
from batch_imaging.pipelines.batch import BatchResult, Buffers, RunIdentity
from batch_imaging.pipelines.cube_imaging import make_setup
from batch_imaging.pipelines.line_imaging import LineImaging, make_steps
from batch_imaging.pipelines.planes import Selection, plan_planes
from batch_imaging.pipelines.selection_text import (
    parse_line_free,
    parse_names,
    parse_stokes,
    parse_times,
    parse_velocities,
)
from batch_imaging.report.fingerprint import take_fingerprints
from batch_imaging.report.provenance import make_provenance, write_provenance
from batch_imaging.report.run_record import RunRecord


@dataclass(frozen=True, slots=True)
class ImageJob:
    """What the group `image` asks for, and where it happens.

    Attributes
    ----------
    source: folder of the input buffer.
    sets: in it.
    folder: gets the products.
    """

    parameters: Parameters
    identity: RunIdentity
    source: Path
    sets: tuple[Path, ...]
    folder: Path
    started: datetime
    engine: str


def find_sets(folder: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """Return the sets of these names or patterns in a folder, in the order of their names.

    Raises
    ------
    DataError: a name or pattern has none.
    """
    found: set[Path] = set()
    for name in names:
        matching = [path for path in folder.glob(name) if (path / "table.dat").is_file()]
        if not matching:
            here = ", ".join(sorted(path.name for path in folder.glob("*"))[:20])
            raise DataError(
                f"{folder}: no Measurement Set {name}, which input.sets names; there is "
                f"{here or 'nothing at all'}"
            )
        found.update(matching)
    return tuple(sorted(found))


def plan_images(job: ImageJob) -> LineImaging:
    """Read what the sets hold, and decide what is done to them.

    Raises
    ------
    ParameterError, DataError: what is asked for cannot be done.
    """
    parameters, image, source = job.parameters, job.parameters.image, job.parameters.input
    assert image is not None
    selection = make_selection(source, image)
    steps = make_steps(
        selection,
        model=job.source / image.model if image.model else None,
        fit_order=image.fit,
        image_order=image.fit_image,
        line_free=parse_line_free(image.line_free) if image.line_free else (),
        clip_sigma=image.auto_mask,
        moment_sigma=image.moments,
    )
    plan = plan_planes(job.sets, selection)
    cell_rad = None if isinstance(image.cellsize, str) else image.cellsize
    setup = make_setup(plan, selection, parameters, clean=image.clean, cell_rad=cell_rad)
    provenance = Provenance(
        "batch_imaging",
        __version__,
        job.identity.git_commit,
        job.identity.pb_id,
        job.identity.eb_id,
        parameter_hash(parameters),
    )
    return LineImaging(plan, selection, setup, steps, job.folder, provenance)


def make_selection(source: InputParameters, image: Image) -> Selection:
    """Return what of the sets is imaged, along which axis.

    Raises
    ------
    ParameterError: a text of the parameters cannot be read.
    """
    if image.velocities and image.frame is None:
        raise ParameterError("image.velocities: in which frame? Give image.frame, too")
    return Selection(
        axis=image.axis,
        field=source.field,
        windows=parse_names(source.spw, "input.spw") if source.spw else (),
        channels=parse_ranges(source.channels) if source.channels else (),
        times_mjd_s=parse_times(source.times, "input.times") if source.times else (),
        step=image.time_step,
        column=source.column,
        stokes=parse_stokes(image.stokes, "image.stokes"),
        average=image.average,
        frame=image.frame,
        rest_freq_hz=image.rest_freq,
        convention=image.velocity,
        velocities=parse_velocities(image.velocities, "image.velocities")
        if image.velocities
        else None,
    )


def image_sets(
    executor: Executor, progress: Progress, job: ImageJob, limit_bytes: int
) -> tuple[Path, ...]:
    """Make the images, the report and the provenance, and return their paths, the report's last.

    What an earlier run with the same folder has done is not done again.

    Parameters
    ----------
    limit_bytes: that a worker may take.

    Raises
    ------
    BatchImagingError: of any kind.
    """
    from batch_imaging.report.line_report import write_line_report  # matplotlib takes half a second

    assert job.parameters.image is not None
    imaging = plan_images(job)
    if imaging.worker_bytes > limit_bytes:
        raise ResourceError(
            f"a worker takes about {shown_bytes(imaging.worker_bytes)} and may have "
            f"{shown_bytes(limit_bytes)}; give fewer n_workers or a smaller imaging.npixel"
        )
    result = imaging.run(
        executor,
        progress,
        max_failed=job.parameters.image.max_failed_planes,
        memory_bytes=limit_bytes,
    )
    with progress.stage("report"):
        report = write_line_report(job.folder, result)
        products = (*result.files, *report)
        run = RunRecord(
            job.parameters,
            job.identity,
            Buffers(job.folder, job.folder),
            BatchResult(),
            job.started,
            datetime.now(UTC),
            job.sets,
            tuple(progress.stages),
            engine=job.engine,
        )
        marks = take_fingerprints([*products, *job.sets])
        provenance = write_provenance(job.folder.absolute(), make_provenance(run, marks))
    return (*products[:-1], provenance, products[-1])
