"""From Measurement Sets to a line cube, its moments and spectra, in stages that a rerun skips.

The continuum is taken out of copies of the sets, the cube imaged from those, what is left of the
continuum taken out of the cube, moments made and spectra read before and after: each only if asked
for. Cubes go on plane by plane by their own journals; the other stages are in ``stages.jsonl``, by
keys of all that they depend on, and count as done while their outputs stand as they were left.

What is made of cubes is imported where it is asked for: Dask's arrays and spectral-cube take longer
to load than all the rest.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batch_imaging import __version__
from batch_imaging.errors import ParameterError
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.journal import Journal, make_key, stamp_of
from batch_imaging.execution.progress import Progress
from batch_imaging.io.fits_image import Provenance
from batch_imaging.model.spectral_axis import Convention, SpectralRange
from batch_imaging.pipelines import subtraction as continuum
from batch_imaging.pipelines.cube_imaging import (
    CubeImaging,
    CubeResult,
    remove_cubes,
    worker_bytes,
)
from batch_imaging.pipelines.plane_imaging import PlaneSetup
from batch_imaging.pipelines.planes import PlanePlan, Selection, plan_planes
from batch_imaging.pipelines.subtraction import SetPlan

if TYPE_CHECKING:
    from batch_imaging.pipelines.cubes.continuum import ImageContinuum
    from batch_imaging.pipelines.cubes.extraction import Spectrum
    from batch_imaging.pipelines.cubes.moments import Moment
    from batch_imaging.pipelines.cubes.schedule import Schedule

STAGES = "stages.jsonl"
BEFORE, SUBTRACTED, LINE, SPECTRA = "before", "subtracted", "line", "spectra.csv"
MOMENTS: "tuple[Moment, ...]" = ("0", "1", "2")
N_POSITIONS = 3
APART_BEAMS = 2.0
MOMENT_SIGMA = 5.0
_PRODUCTS_BYTES = 90_000_000  # spectral-cube and what it loads


@dataclass(frozen=True, slots=True)
class LineSteps:
    """What is done besides imaging; None leaves a step out.

    Attributes
    ----------
    subtraction: of the visibilities, before.
    image_continuum: what is taken out of the cube.
    moment_sigma: moments are of what stands so many times above the noise of its channel.
    """

    subtraction: continuum.Subtraction | None = None
    image_continuum: "ImageContinuum | None" = None
    moment_sigma: float | None = None


def make_steps(
    selection: Selection,
    *,
    model: Path | None = None,
    fit_order: int | None = None,
    image_order: int | None = None,
    line_free: tuple[SpectralRange, ...] | Path = (),
    clip_sigma: float | None = None,
    order: str | None = None,
    moment_sigma: float | None = None,
) -> LineSteps:
    """Return the steps that are asked for; frame and rest frequency are those of the selection.

    Parameters
    ----------
    order: of the methods on visibilities, as in ``fit,model``.
    moment_sigma: by default 5 where a continuum is subtracted from channels, else no moments.

    Raises
    ------
    ParameterError: what was asked for does not go together.
    """
    if line_free and fit_order is None and image_order is None:
        raise ParameterError("line-free channels belong to a fit; give its order, too")
    if clip_sigma and fit_order is None:
        raise ParameterError("channels are found by clipping in a fit to visibilities: order it")
    if isinstance(line_free, Path) and image_order is not None:
        raise ParameterError(
            f"{line_free}: holds channels of visibilities, and the cube has others; give ranges"
        )
    rest_freq_hz, convention = selection.rest_freq_hz, selection.convention
    subtraction = image_continuum = None
    if model or fit_order is not None:
        subtraction = continuum.Subtraction(
            continuum.order_methods(order, model is not None, fit_order is not None),
            model and model.absolute(),
            fit_order or 0,
            continuum.LineFree(
                () if clip_sigma and image_order is not None else line_free,
                clip_sigma,
                selection.frame or "TOPO",
                rest_freq_hz,
                convention,
            ),
            selection.column,
            fields=(selection.field,) if selection.field else (),
            windows=selection.windows,
        )
    if image_order is not None and not isinstance(line_free, Path):
        from batch_imaging.pipelines.cubes.continuum import ImageContinuum

        image_continuum = ImageContinuum(image_order, line_free, rest_freq_hz, convention)
    if moment_sigma is None and (subtraction or image_continuum) and selection.axis == "channel":
        moment_sigma = MOMENT_SIGMA
    return LineSteps(subtraction, image_continuum, moment_sigma)


@dataclass(frozen=True, slots=True)
class LineResult:
    """What was made.

    Attributes
    ----------
    cube: its files["image"] is the cube of the line, its planes that cube's noise and peaks.
    moments: maps by the name of the moment.
    before, after: spectra at the brightest positions of moment 0; before is empty where no
        continuum was subtracted.
    velocity_km_s: (chan,) of the spectra.
    """

    files: tuple[Path, ...]
    cube: CubeResult
    moments: "dict[Moment, Path]" = field(default_factory=dict)
    before: "tuple[Spectrum, ...]" = ()
    after: "tuple[Spectrum, ...]" = ()
    velocity_km_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, slots=True)
class _Stage:
    """A step of which the journal says whether it is done: by its key, while its outputs stand."""

    name: str
    key: str
    outputs: tuple[Path, ...]

    @classmethod
    def of(cls, name: str, outputs: Sequence[Path], **depends_on: Any) -> "_Stage":
        return cls(name, make_key(stage=name, version=__version__, **depends_on), tuple(outputs))


class LineImaging:
    """The stages from a plan of planes to their products in a folder."""

    def __init__(
        self,
        plan: PlanePlan,
        selection: Selection,
        setup: PlaneSetup,
        steps: LineSteps,
        folder: Path,
        provenance: Provenance,
    ) -> None:
        if selection.axis != "channel" and (steps.image_continuum or steps.moment_sigma):
            raise ParameterError(
                f"axis {selection.axis}: moments, and fits to the spectra of a cube, are of "
                "channels; leave them out, or give axis channel"
            )
        self._plan, self._selection, self._setup, self._steps = plan, selection, setup, steps
        self._folder, self._provenance = folder.absolute(), provenance
        self._subtracted = tuple(self._folder / SUBTRACTED / path.name for path in plan.sets)
        self._journal = Journal.read(self._folder / STAGES)
        if steps.subtraction:  # what cannot be done is refused before anything starts
            self._plan_subtraction(steps.subtraction)

    @property
    def worker_bytes(self) -> int:
        """What a worker is expected to take at most, one that leads the stages, too."""
        imaging = worker_bytes(self._plan, self._setup)
        if self._steps.image_continuum or self._steps.moment_sigma:
            imaging += _PRODUCTS_BYTES
        return max(imaging, self.subtraction_bytes)

    @property
    def subtraction_bytes(self) -> int:
        """What a worker is expected to take that subtracts from visibilities."""
        subtraction = self._steps.subtraction
        return continuum.worker_bytes(subtraction) if subtraction else 0

    def __str__(self) -> str:
        """Say what would be done, stage by stage."""
        steps = self._steps
        lines: list[str] = []
        if steps.subtraction:
            is_done = self._is_done(self._subtraction_stage(steps.subtraction))
            lines += map(str, self._plan_subtraction(steps.subtraction))
            lines.append(f"  {'done' if is_done else 'to do'}")
            lines.append(str(self._before))
            lines.append(str(self._after if is_done else self._cube(self._plan)))
        else:
            lines.append(str(self._cube(self._plan)))
        if steps.image_continuum:
            order = steps.image_continuum.order
            lines.append(
                f"{self._folder / LINE}: the cube without polynomials of order {order} through "
                "the spectra of its pixels"
            )
        if steps.moment_sigma:
            names = ", ".join(path.name for path in self._moment_paths.values())
            lines.append(
                f"{self._folder}: {names}, of what is above {steps.moment_sigma:g} times the "
                f"noise; {SPECTRA}, at the {N_POSITIONS} brightest positions"
            )
        return "\n".join(lines)

    def clear(self) -> None:
        """Remove what earlier runs left in the folder, so that all is made anew."""
        remove_cubes(self._folder)
        for name in (BEFORE, SUBTRACTED, f"{LINE}.zarr"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        for name in (STAGES, f"{LINE}.fits", SPECTRA, *(f"moment{m}.fits" for m in MOMENTS)):
            (self._folder / name).unlink(missing_ok=True)
        self._journal = Journal.read(self._folder / STAGES)

    def run(
        self,
        executor: Executor,
        progress: Progress,
        *,
        max_failed: int,
        memory_bytes: float | None = None,
    ) -> LineResult:
        """Do what is not done yet.

        Parameters
        ----------
        max_failed: planes of a cube that may fail or diverge.
        memory_bytes: that this process may take; by default half of what is free.

        Raises
        ------
        BatchImagingError: of any kind; finished stages are kept for another run.
        """
        steps = self._steps
        before: CubeResult | None = None
        imaging = self._cube(self._plan)
        if steps.subtraction:
            self.subtract(executor, progress)
            before = self._before.run(executor, progress, max_failed=max_failed)
            imaging = self._after
        cube = imaging.run(executor, progress, max_failed=max_failed)
        files = tuple(cube.files.values())
        if not (steps.image_continuum or steps.moment_sigma):
            return LineResult(files, cube)
        from batch_imaging.pipelines.cubes.schedule import Schedule

        schedule = Schedule(memory_bytes=memory_bytes, progress=progress)
        if steps.image_continuum:
            before = before or cube
            cube = self._subtract_from_cube(cube, steps.image_continuum, schedule)
            files = (*files, cube.files["image"])
        if not steps.moment_sigma:
            return LineResult(files, cube)
        moments = self._make_moments(cube, steps.moment_sigma, schedule)
        return self._with_spectra(LineResult(files, cube, moments), before, schedule)

    def subtract(self, executor: Executor, progress: Progress, threads: int | None = None) -> None:
        """Do the first stage alone, if there is one, which `run` then finds done.

        Parameters
        ----------
        threads: of a worker; by default those that the executor has for it.
        """
        subtraction = self._steps.subtraction
        if subtraction is None:
            return

        def make() -> dict[str, Any]:
            plans = self._plan_subtraction(subtraction)
            results = continuum.run_subtraction(plans, subtraction, executor, progress, threads)
            return {
                "rms_before_jy": [each.rms_before_jy for each in results],
                "rms_after_jy": [each.rms_after_jy for each in results],
            }

        self._do(self._subtraction_stage(subtraction), make)

    # ------------------------------------------------------------------------------- stages

    def _subtraction_stage(self, subtraction: continuum.Subtraction) -> _Stage:
        files = (subtraction.model, subtraction.line_free.ranges)
        given = [file for file in files if isinstance(file, Path)]
        return _Stage.of(
            "subtraction",
            self._subtracted,
            how=asdict(subtraction),
            inputs=[stamp_of(path) for path in (*self._plan.sets, *given)],
        )

    def _plan_subtraction(self, subtraction: continuum.Subtraction) -> tuple[SetPlan, ...]:
        return continuum.plan_subtraction(
            self._plan.sets, subtraction, output=self._folder / SUBTRACTED, overwrite=True
        )

    def _subtract_from_cube(
        self, cube: CubeResult, how: "ImageContinuum", schedule: "Schedule"
    ) -> CubeResult:
        source = cube.files["image"]
        line = self._folder / f"{LINE}{source.suffix}"

        def make() -> dict[str, Any]:
            from batch_imaging.pipelines.line_products import subtract_from_cube

            noise, peak = subtract_from_cube(self._source(source), how, line, schedule)
            return {"noise": [*map(_json_number, noise)], "peak": [*map(_json_number, peak)]}

        stage = _Stage.of("continuum of the cube", [line], how=asdict(how), cube=stamp_of(source))
        record = self._do(stage, make)
        planes = tuple(
            replace(plane, noise_jy=_number(noise), peak_jy=_number(peak))
            for plane, noise, peak in zip(cube.planes, record["noise"], record["peak"], strict=True)
        )
        return replace(cube, files=cube.files | {"image": line}, planes=planes)

    def _make_moments(
        self, cube: CubeResult, sigma: float, schedule: "Schedule"
    ) -> "dict[Moment, Path]":
        path, paths, velocities = cube.files["image"], self._moment_paths, self._velocities

        def make() -> dict[str, Any]:
            from batch_imaging.pipelines.line_products import write_moments

            write_moments(self._source(path), velocities, sigma, paths, schedule)
            return {}

        how = [sigma, velocities]
        stage = _Stage.of("moments", [*paths.values()], how=how, cube=stamp_of(path))
        self._do(stage, make)
        return paths

    def _with_spectra(
        self, result: LineResult, before: CubeResult | None, schedule: "Schedule"
    ) -> LineResult:
        from batch_imaging.pipelines.line_products import read_spectra

        beams_rad = [plane.beam.bmaj_rad for plane in result.cube.planes if plane.beam]
        apart = APART_BEAMS * float(np.median(beams_rad)) / self._setup.imaging.geometry.cell_rad
        cubes = {"before": self._source(before.files["image"])} if before else {}
        cubes["after"] = self._source(result.cube.files["image"])
        table = self._folder / SPECTRA
        spectra, velocity_km_s = read_spectra(
            cubes, result.moments["0"], N_POSITIONS, apart, self._velocities, table, schedule
        )
        return replace(
            result,
            files=(*result.files, *result.moments.values(), table),
            before=spectra.get("before", ()),
            after=spectra["after"],
            velocity_km_s=velocity_km_s,
        )

    # ------------------------------------------------------------------------------- parts

    @property
    def _before(self) -> CubeImaging:
        """Of the data before subtraction, not cleaned: it only shows what was subtracted."""
        setup = replace(self._setup, ical=None)
        return CubeImaging(
            self._plan, self._selection, setup, self._folder / BEFORE, self._provenance
        )

    @property
    def _after(self) -> CubeImaging:
        """Of the subtracted data, which are there."""
        selection = replace(self._selection, column="DATA")
        plan = plan_planes(self._subtracted, selection)
        return self._cube(plan, selection)

    def _cube(self, plan: PlanePlan, selection: Selection | None = None) -> CubeImaging:
        selection = selection or self._selection
        setup = replace(self._setup, column=selection.column)
        return CubeImaging(plan, selection, setup, self._folder, self._provenance)

    @property
    def _moment_paths(self) -> "dict[Moment, Path]":
        return {moment: self._folder / f"moment{moment}.fits" for moment in MOMENTS}

    @property
    def _velocities(self) -> tuple[float | None, Convention]:
        """The rest frequency, by default that of the header, and the convention."""
        return self._selection.rest_freq_hz, self._selection.convention

    def _source(self, path: Path) -> tuple[Path, str]:
        """Return a cube and which of its Stokes parameters products are made of."""
        return path, "I" if path.stem == LINE else self._selection.stokes[0]

    # ------------------------------------------------------------------------------- journal

    def _do(self, stage: _Stage, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Make the outputs of a stage unless they stand there, and return its record."""
        if not self._is_done(stage):
            self._folder.mkdir(parents=True, exist_ok=True)
            figures = make()
            self._journal.mend()
            stamps = [stamp_of(path) for path in stage.outputs]
            self._journal.append(stage.key, {"stage": stage.name, "outputs": stamps, **figures})
        return self._journal.records[stage.key]

    def _is_done(self, stage: _Stage) -> bool:
        record = self._journal.records.get(stage.key)
        return (
            record is not None
            and all(path.exists() for path in stage.outputs)
            and [tuple(stamp) for stamp in record["outputs"]] == [*map(stamp_of, stage.outputs)]
        )


def _json_number(value: float) -> float | None:
    return None if math.isnan(value) else value  # JSON has no NaN


def _number(value: float | None) -> float:
    return math.nan if value is None else value
