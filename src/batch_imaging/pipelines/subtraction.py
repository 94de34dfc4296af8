"""Continuum subtraction of Measurement Sets, a range of rows at a time.

A unit of work reads rows of one field and spectral window, takes the continuum out by a model, by a
polynomial fit or by one after the other, and writes the same rows. Results go to a new column, or
to a copy of the set; either takes its name when it is complete. Rows of fields and windows that
were not asked for are in it as they were.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ParameterError, ProductError, ResourceError
from batch_imaging.execution.executor import Executor
from batch_imaging.execution.progress import Progress
from batch_imaging.io.line_free_file import LineFreeChannels, read_line_free, write_line_free
from batch_imaging.io.measurement_set import (
    RowBlock,
    RowGroup,
    SetStructure,
    copied_set,
    describe_structure,
    new_column,
    read_rows,
    remove_columns,
    shown_groups,
    write_column_record,
    write_rows,
)
from batch_imaging.kernels.prediction import Way
from batch_imaging.kernels.subtraction import (
    clip_lines,
    make_basis,
    require_channels,
    shown_channels,
    subtract_fit,
)
from batch_imaging.model.spectral_axis import (
    FRAMES,
    Convention,
    Frame,
    SpectralAxis,
    SpectralRange,
    doppler_factor,
    parse_ranges,
)
from batch_imaging.pipelines.model_source import ModelSource, Sampling, load_source

LOG = logging.getLogger("batch_imaging")

Method = Literal["model", "fit"]
Mask = NDArray[np.bool_]

UNIT_SAMPLES = 1 << 20  # 8 MiB of visibilities
_BYTES_PER_SAMPLE = 150  # at the peak: data, weights, model, fit, what is written
_WORKER_BYTES = 1.5e9  # the program, and what a transform may allocate
_PARALLEL_HANDS = ("I", "RR", "LL", "XX", "YY")
_WAYS: tuple[Way, ...] = ("product", "degrid")


@dataclass(frozen=True, slots=True)
class LineFree:
    """Where there is no line: ranges, or those of a file, or what clipping finds, or everywhere.

    Ranges in Hz and m/s hold in ``frame``, at the middle of the observation.
    """

    ranges: tuple[SpectralRange, ...] | Path = ()
    clip_sigma: float | None = None
    frame: Frame = "TOPO"
    rest_freq_hz: float | None = None
    convention: Convention = "radio"


@dataclass(frozen=True, slots=True)
class Subtraction:
    """What is to be taken out, and how.

    Attributes
    ----------
    methods: in the order in which they are applied.
    model: a file, or a model in memory; for "model".
    fit_order: of the polynomials; for "fit".
    way: of prediction; None takes the cheaper.
    fields, windows: numbers or names of those that are done; empty for all.
    """

    methods: tuple[Method, ...]
    model: Path | ModelSource | None = None
    fit_order: int = 1
    line_free: LineFree = LineFree()
    column: str = "DATA"
    way: Way | None = None
    fields: tuple[str, ...] = ()
    windows: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ParameterError("name the methods of subtraction, each once: model, fit or both")
        if ("model" in self.methods) != (self.model is not None):
            raise ParameterError("the method “model” needs a model, and a model that method")
        if self.fit_order < 0 or (self.line_free.clip_sigma or 1) <= 0:
            raise ParameterError("the order of a fit is 0 or more, a clipping limit above 0")
        if self.line_free.ranges and self.line_free.clip_sigma:
            raise ParameterError("give line-free ranges or a clipping limit, not both")


@dataclass(frozen=True, slots=True)
class GroupPlan:
    """How the rows of one field and spectral window are done.

    Attributes
    ----------
    group: without its rows, which the units have.
    methods: none where the rows stay as they are.
    line_free: (chan,) the channels that are fitted; those of clipping are found when it runs.
    way: of prediction.
    cost_s: of the prediction, about, on one core.
    units: the rows of each.
    sample: rows of integrations spread over all times, for clipping.
    """

    group: RowGroup
    methods: tuple[Method, ...]
    n_stations: int
    line_free: Mask
    way: Way
    cost_s: float
    units: tuple[NDArray[np.integer], ...]
    sample: NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class SetPlan:
    """One set, what is written and in what parts.

    Attributes
    ----------
    output: the new set, or None for a new column of the same one.
    output_column: in either.
    """

    structure: SetStructure
    output: Path | None
    output_column: str
    groups: tuple[GroupPlan, ...]

    @property
    def path(self) -> Path:
        return self.structure.path

    @property
    def done(self) -> tuple[GroupPlan, ...]:
        """The groups that are not left as they are."""
        return tuple(plan for plan in self.groups if plan.methods)

    @property
    def line_free_file(self) -> Path:
        """Where the channels that clipping found are written."""
        target = self.output or self.path
        return target.with_name(f"{target.name}.line_free.csv")

    def __str__(self) -> str:
        target = self.output or self.path
        lines = [f"{self.path}: {self.output_column} of {target}"]
        for plan in self.done:
            window = plan.group.window
            lines.append(
                f"  {plan.group.field_name}, {window.freq_hz.mean() / 1e6:.6g} MHz: "
                f"{len(window.freq_hz)} channels, {sum(map(len, plan.units)):,} rows in "
                f"{len(plan.units)} units; line-free {shown_channels(plan.line_free)}"
                + (f"; prediction by {plan.way}, about {plan.cost_s:.2g} s" if plan.cost_s else "")
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class SetResult:
    """What was written.

    Attributes
    ----------
    path: of the set; column: of the result.
    line_free: (chan,) of each field and spectral window that was done, in the plan's order.
    line_free_file: where these are, if clipping found them.
    n_samples: good ones that were read.
    n_unknown: of these, blank now because their continuum could not be fitted.
    rms_before_jy, rms_after_jy: over line-free channels, of all correlations.
    """

    path: Path
    column: str
    line_free: tuple[Mask, ...]
    n_samples: int
    n_unknown: int
    rms_before_jy: float
    rms_after_jy: float
    line_free_file: Path | None = None


def order_methods(order: str | None, has_model: bool, has_fit: bool) -> tuple[Method, ...]:
    """Return the methods that are asked for in their order, by default the model first.

    Raises
    ------
    ParameterError: there is none, or the order names others.
    """
    wanted: dict[Method, bool] = {"model": has_model, "fit": has_fit}
    given = tuple(method for method in wanted if wanted[method])
    if not given:
        raise ParameterError("nothing to subtract; give --model FILE, --fit ORDER or both")
    if order is None:
        return given
    if sorted(order.split(",")) != sorted(given):
        raise ParameterError(
            f"--order {order}: must name what is asked for, {' and '.join(given)}, each once"
        )
    return given if order.split(",") == list(given) else given[::-1]


def plan_subtraction(
    paths: Sequence[Path],
    subtraction: Subtraction,
    *,
    output: Path | None = None,
    output_column: str | None = None,
    overwrite: bool = False,
) -> tuple[SetPlan, ...]:
    """Decide what is done to every set, and refuse what cannot be done, before anything starts.

    Parameters
    ----------
    output: folder for new sets of the same names; None adds a column to each set.
    output_column: default DATA in a new set, else LINE_DATA.

    Raises
    ------
    DataError: a set or the model cannot be used.
    ProductError: what would be written is there already.
    ResourceError: the way of prediction that was asked for would not fit into memory.
    """
    names = [path.name for path in paths]
    if output and len(set(names)) < len(names):
        raise ParameterError(f"--output {output}: two of the sets have one name; do them apart")
    column = output_column or ("DATA" if output else "LINE_DATA")
    return tuple(
        _plan_set(path, subtraction, output and output / path.name, column, overwrite)
        for path in paths
    )


def _plan_set(
    path: Path, subtraction: Subtraction, output: Path | None, column: str, overwrite: bool
) -> SetPlan:
    structure = describe_structure(path)
    if subtraction.column not in structure.data_columns:
        raise DataError(
            f"{path}: no column {subtraction.column} of visibilities; "
            f"there is {', '.join(structure.data_columns) or 'none at all'}"
        )
    if output and output.resolve() == path.resolve():
        raise ProductError(f"{path}: cannot be replaced by itself; choose another --output")
    if output and output.exists() and not overwrite:
        raise ProductError(f"{output}: is there already; choose another --output or --overwrite it")
    if not output and column in structure.columns:
        if column not in structure.data_columns:
            raise ProductError(f"{path}: {column} holds no visibilities; choose another name")
        if not overwrite:
            raise ProductError(
                f"{path}: has a column {column} already; choose another or --overwrite it"
            )
    groups = tuple(_plan_group(structure, group, subtraction) for group in structure.groups)
    if not any(plan.methods for plan in groups):
        asked = ", ".join(f"“{name}”" for name in (*subtraction.fields, *subtraction.windows))
        raise DataError(f"{path}: no data for {asked}; {shown_groups(structure.groups)}")
    return SetPlan(structure, output, column, groups)


def _plan_group(structure: SetStructure, group: RowGroup, subtraction: Subtraction) -> GroupPlan:
    units = tuple(group.cut(UNIT_SAMPLES))
    n_stations = len(structure.stations)
    line_free = np.ones(len(group.window.freq_hz), dtype=bool)
    small = replace(group, rows=group.rows[:0], time_mjd_s=group.time_mjd_s[:0])
    if not group.is_one_of(subtraction.fields, subtraction.windows):
        return GroupPlan(small, (), n_stations, line_free, "product", 0.0, units, group.rows[:0])
    if "fit" in subtraction.methods:
        line_free = _select_line_free(structure, group, subtraction.line_free)
        data = _data_name(structure.path, group)
        require_channels(line_free, subtraction.fit_order, data)
    way, cost_s = subtraction.way or "product", 0.0
    if subtraction.model is not None:
        sampling = _sample(structure, group)
        source = _source(subtraction, group)
        ways = (subtraction.way,) if subtraction.way else _WAYS
        cost_s, way = min((source.cost_s(sampling, each), each) for each in ways)
        if not np.isfinite(cost_s):
            raise ResourceError(
                f"{_data_name(structure.path, group)}: field and baselines are too large for a "
                "transform of components; predict by “product”"
            )
    sample = _spread_rows(group)
    methods = subtraction.methods
    return GroupPlan(small, methods, n_stations, line_free, way, cost_s, units, sample)


def _spread_rows(group: RowGroup) -> NDArray[np.integer]:
    """Return rows of whole integrations, evenly spread, of about one unit in all."""
    times, time_of_row = np.unique(group.time_mjd_s, return_inverse=True)
    samples = group.rows.size * len(group.window.freq_hz) * len(group.window.corr)
    n_times = int(np.clip(UNIT_SAMPLES * len(times) // samples, 1, len(times)))
    chosen = np.linspace(0, len(times) - 1, n_times).round()
    return group.rows[np.isin(time_of_row, chosen)]


def _sample(structure: SetStructure, group: RowGroup) -> Sampling:
    """Take the extent of uvw from the stations: no row needs to be read."""
    reach_m = np.ptp(structure.stations.itrf_m, axis=0)
    longest_m = np.full(3, float(np.linalg.norm(reach_m)))
    return Sampling(
        group.phase_centre,
        group.window.freq_hz,
        longest_m,
        len(group.rows),
        len(np.unique(group.time_mjd_s)),
        len(structure.stations),
    )


def _source(subtraction: Subtraction, group: RowGroup) -> ModelSource:
    model = subtraction.model
    if isinstance(model, Path):
        return load_source(model, float(group.window.freq_hz.mean()))
    assert model is not None
    return model


def _select_line_free(structure: SetStructure, group: RowGroup, wanted: LineFree) -> Mask:
    window = group.window
    if not wanted.ranges:
        return np.ones(len(window.freq_hz), dtype=bool)
    data = _data_name(structure.path, group)
    if isinstance(wanted.ranges, Path):
        return _read_line_free(wanted.ranges, group, data)
    in_hertz = any(one.unit != "chan" for one in wanted.ranges)
    axis = SpectralAxis(window.freq_hz, window.chan_width_hz, rest_freq_hz=wanted.rest_freq_hz)
    if in_hertz and window.frame != wanted.frame:
        if window.frame not in FRAMES:
            raise DataError(
                f"{data}: its frequencies are in the frame {window.frame}, which cannot be turned "
                f"into {wanted.frame}; give ranges in channels"
            )
        middle = (group.time_mjd_s[0] + group.time_mjd_s[-1]) / 2
        place = structure.stations.reference_itrf_m
        factor = doppler_factor(window.frame, wanted.frame, middle, group.phase_centre, place)
        axis = axis.shifted(wanted.frame, float(factor))
    try:
        return axis.select(wanted.ranges, wanted.convention)
    except DataError as error:
        raise DataError(f"{data}: {error}") from error


def _read_line_free(path: Path, group: RowGroup, data: str) -> Mask:
    n_chan = len(group.window.freq_hz)
    for row in read_line_free(path):
        if (row.field, row.spw, row.n_chan) == (group.field_name, group.window_id, n_chan):
            axis = SpectralAxis(group.window.freq_hz, group.window.chan_width_hz)
            return axis.select(parse_ranges(row.channels))
    raise DataError(
        f"{path}: has no line-free channels for {data}, window {group.window_id} of {n_chan} "
        "channels; add a row, or leave it out with --field and --spw"
    )


def _data_name(path: Path, group: RowGroup) -> str:
    return f"{path}, field {group.field_name}, {group.window.freq_hz.mean() / 1e6:.6g} MHz"


def worker_bytes(subtraction: Subtraction) -> int:
    """Return how much memory a worker may take."""
    model = subtraction.model
    model_bytes = model.stat().st_size if isinstance(model, Path) else 0
    return int(_WORKER_BYTES + UNIT_SAMPLES * _BYTES_PER_SAMPLE + 8 * model_bytes)


def run_subtraction(
    plans: Sequence[SetPlan],
    subtraction: Subtraction,
    executor: Executor,
    progress: Progress,
    threads: int | None = None,
) -> tuple[SetResult, ...]:
    """Subtract, set after set; each result is complete or not there.

    Parameters
    ----------
    threads: of a unit's native libraries; by default those that the executor has for it.

    Raises
    ------
    DataError: a set has too few line-free channels with data.
    ProductError: a result cannot be written.
    """
    if isinstance(subtraction.model, Path):  # workers may run in another folder
        subtraction = replace(subtraction, model=subtraction.model.absolute())
    threads = threads or executor.native_threads
    return tuple(_run_set(plan, subtraction, executor, progress, threads) for plan in plans)


@dataclass(frozen=True, slots=True)
class _Unit:
    """Rows to read from one set and to write to it or another."""

    path: Path
    target: Path
    target_column: str
    flag_blank: bool
    plan: GroupPlan
    rows: NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Of a unit, or of a set: samples, blank ones, and Σ|V|² over line-free channels."""

    n_samples: int = 0
    n_unknown: int = 0
    n_line_free: int = 0
    before_jy2: float = 0.0
    after_jy2: float = 0.0

    def __add__(self, other: "_Sums") -> "_Sums":
        return _Sums(
            self.n_samples + other.n_samples,
            self.n_unknown + other.n_unknown,
            self.n_line_free + other.n_line_free,
            self.before_jy2 + other.before_jy2,
            self.after_jy2 + other.after_jy2,
        )


def _run_set(
    plan: SetPlan,
    subtraction: Subtraction,
    executor: Executor,
    progress: Progress,
    threads: int,
) -> SetResult:
    path = plan.path.absolute()
    clips = "fit" in subtraction.methods and subtraction.line_free.clip_sigma is not None
    if clips:
        samples = [replace(group, units=()) for group in plan.done]
        masks = executor.map(find_line_free, samples, path, subtraction)
        groups = (
            replace(group, line_free=next(masks)) if group.methods else group
            for group in plan.groups
        )
        plan = replace(plan, groups=tuple(groups))
    with ExitStack() as stack:
        target, in_place, column = path, plan.output is None, plan.output_column
        if plan.output:
            target = stack.enter_context(copied_set(path, plan.output.absolute()))
        if in_place or column not in plan.structure.columns:
            column = stack.enter_context(new_column(target, column, subtraction.column))
        if not in_place:  # they belong to the data as they were
            remove_columns(target, {"CORRECTED_DATA", "MODEL_DATA"} - {plan.output_column})
        units = [
            _Unit(
                path,
                target,
                column,
                not in_place,
                replace(group, units=(), sample=rows[:0]),
                rows,
            )
            for group in plan.groups
            for rows in group.units
        ]
        total = _Sums()
        with progress.stage(f"subtraction {plan.path.name}", len(units)) as bar:
            results = executor.map(subtract_rows, units, subtraction, threads)
            for sums in bar.track(results):
                total += sums
        _require_result(plan.path, total)
        write_column_record(target, column, _record(plan.done, subtraction))
    if clips:
        write_line_free(plan.line_free_file, list(map(_line_free_row, plan.done)))
    if total.n_unknown:
        LOG.warning(
            "%s: %d of %d samples have no continuum, for want of line-free channels that are not "
            "flagged; they are blank now",
            plan.path,
            total.n_unknown,
            total.n_samples,
        )
    counted = max(total.n_line_free, 1)
    return SetResult(
        plan.output or plan.path,
        plan.output_column,
        tuple(group.line_free for group in plan.done),
        total.n_samples,
        total.n_unknown,
        float(np.sqrt(total.before_jy2 / counted)),
        float(np.sqrt(total.after_jy2 / counted)),
        plan.line_free_file if clips else None,
    )


def _line_free_row(plan: GroupPlan) -> LineFreeChannels:
    group, channels = plan.group, shown_channels(plan.line_free)
    return LineFreeChannels(group.field_name, group.window_id, len(plan.line_free), channels)


def _require_result(path: Path, total: _Sums) -> None:
    if total.n_samples == 0:
        raise DataError(f"{path}: all samples are flagged; give a set with good data")
    if total.n_unknown == total.n_samples:
        raise DataError(
            f"{path}: no spectrum has enough line-free channels that are not flagged; "
            "give other ranges or a lower order"
        )


def _record(groups: Sequence[GroupPlan], subtraction: Subtraction) -> dict[str, Any]:
    """Return what the result's column keeps of how it was made."""
    record: dict[str, Any] = {"METHODS": ",".join(subtraction.methods)}
    if isinstance(subtraction.model, Path):
        record["MODEL"] = subtraction.model.name
    if "fit" in subtraction.methods:
        record["FIT_ORDER"] = subtraction.fit_order
        record["LINE_FREE"] = [
            f"{g.group.field_name}, {g.group.window.freq_hz.mean() / 1e6:.6g} MHz: "
            + shown_channels(g.line_free)
            for g in groups
        ]
    return record


def subtract_rows(unit: _Unit, subtraction: Subtraction, threads: int) -> _Sums:
    """Subtract the continuum of some rows and write them (a unit of work)."""
    plan = unit.plan
    block = read_rows(unit.path, unit.rows, subtraction.column)
    vis = block.vis
    for method in plan.methods:
        if method == "model":
            vis = _subtract_model(replace(block, vis=vis), plan, subtraction, threads)
        else:
            basis = make_basis(plan.group.window.freq_hz, subtraction.fit_order)
            vis = subtract_fit(vis, block.weight, plan.line_free, basis)
    stored = np.where(block.finite, vis, np.nan)
    write_rows(unit.target, unit.rows, unit.target_column, stored, flag_blank=unit.flag_blank)
    if not plan.methods:
        return _Sums()
    good = block.weight > 0
    known = np.isfinite(vis)
    counted = good & known & plan.line_free[:, np.newaxis]
    return _Sums(
        int(np.count_nonzero(good)),
        int(np.count_nonzero(good & ~known)),
        int(np.count_nonzero(counted)),
        float((np.abs(block.vis[counted]) ** 2).sum(dtype=float)),
        float((np.abs(vis[counted]) ** 2).sum(dtype=float)),
    )


def _subtract_model(
    block: RowBlock, plan: GroupPlan, subtraction: Subtraction, threads: int
) -> NDArray[np.complex64]:
    """Take Stokes I out of the parallel hands; the others have none of it."""
    window, centre = plan.group.window, plan.group.phase_centre
    model = _source(subtraction, plan.group).predict(
        block, centre, window.freq_hz, plan.n_stations, plan.way, threads
    )
    vis = block.vis.copy()
    for k, name in enumerate(window.corr):
        if name in _PARALLEL_HANDS:
            vis[:, :, k] -= model
    return vis


def find_line_free(plan: GroupPlan, path: Path, subtraction: Subtraction) -> Mask:
    """Find a field's line-free channels on integrations spread over its time (a unit of work)."""
    sigma = subtraction.line_free.clip_sigma
    assert sigma is not None
    block = read_rows(path, plan.sample, subtraction.column)
    vis = block.vis
    if plan.methods[0] == "model":
        vis = _subtract_model(block, plan, subtraction, threads=1)
    basis = make_basis(plan.group.window.freq_hz, subtraction.fit_order)
    data = _data_name(path, plan.group)
    return clip_lines(vis, block.weight, plan.line_free, basis, sigma, data)
