"""Measurement Sets of a buffer, and their imaging along an axis as a job: led by a worker."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from batch_imaging import __version__
from batch_imaging.errors import DataError, ResourceError
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.memory import shown_bytes
from batch_imaging.execution.progress import Progress
from batch_imaging.io.fits_image import Provenance
from batch_imaging.model.spectral_axis import parse_ranges
from batch_imaging.parameters import Parameters, parameter_hash
from batch_imaging.pipelines.batch import RunIdentity
from batch_imaging.pipelines.cube_imaging import make_setup
from batch_imaging.pipelines.line_imaging import LineImaging, LineResult, LineSteps, make_steps
from batch_imaging.pipelines.planes import Selection, plan_planes
from batch_imaging.pipelines.selection_text import (
    parse_line_free,
    parse_names,
    parse_stokes,
    parse_times,
    parse_velocities,
)


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
    parameters, image = job.parameters, job.parameters.image
    assert image is not None
    selection, steps = choose_steps(parameters, job.source)
    plan = plan_planes(job.sets, selection)
    setup = make_setup(
        plan,
        selection,
        parameters,
        clean=image.clean,
        cell_rad=None if isinstance(image.cellsize, str) else image.cellsize,
        threads=image.threads,
        mask=job.source / image.mask if image.mask else None,
        mask_sigma=image.mask_sigma,
        weight_density=image.weight_density,
        file_format=image.format,
    )
    provenance = Provenance(
        "batch_imaging",
        __version__,
        job.identity.git_commit,
        job.identity.pb_id,
        job.identity.eb_id,
        parameter_hash(parameters),
    )
    return LineImaging(plan, selection, setup, steps, job.folder, provenance)


def choose_steps(parameters: Parameters, folder: Path) -> tuple[Selection, LineSteps]:
    """Return what of the sets is imaged along which axis, and what else is done; read no file.

    Parameters
    ----------
    folder: of the input buffer.

    Raises
    ------
    ParameterError: a text of the parameters cannot be read, or does not go with others.
    """
    source, image = parameters.input, parameters.image
    assert image is not None
    selection = Selection(
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
    line_free = parse_line_free(image.line_free) if image.line_free else ()
    steps = make_steps(
        selection,
        model=folder / image.model if image.model else None,
        fit_order=image.fit,
        image_order=image.fit_image,
        line_free=folder / line_free if isinstance(line_free, Path) else line_free,
        clip_sigma=image.auto_mask,
        order=image.order,
        moment_sigma=image.moments,
    )
    return selection, steps


def image_sets(
    executor: Executor, progress: Progress, job: ImageJob, limit_bytes: int
) -> LineResult:
    """Make the images and the page that shows them, which is the last of the result's files.

    What an earlier run with the same folder has done is not done again.

    Parameters
    ----------
    limit_bytes: that a worker may take.

    Raises
    ------
    BatchImagingError: of any kind.
    """
    from batch_imaging.report.line_report import write_line_report  # matplotlib takes half a second

    image, imaging = job.parameters.image, plan_images(job)
    assert image is not None
    if imaging.worker_bytes > limit_bytes:
        raise ResourceError(
            f"a worker takes about {shown_bytes(imaging.worker_bytes)} and may have "
            f"{shown_bytes(limit_bytes)}; give fewer n_workers or a smaller imaging.npixel"
        )
    imaging.subtract(executor, progress, image.subtract_threads)
    result = imaging.run(
        executor, progress, max_failed=image.max_failed_planes, memory_bytes=limit_bytes
    )
    with progress.stage("pictures"):
        return replace(result, files=(*result.files, *write_line_report(job.folder, result)))
