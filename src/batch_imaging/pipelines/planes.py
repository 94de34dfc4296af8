"""Which planes a cube will have, and which rows and channels of which sets go into each.

Along frequency a plane is a channel of the data, or some of them averaged, or a channel of an axis
in another frame; then the channels that overlap with it are taken at each instant with their shares
(`SpectralAxis.weights_onto`). Each is gridded at its own frequency, so nothing is smeared.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.io.measurement_set import (
    RowGroup,
    SetStructure,
    describe_structure,
    read_cells,
    shown_groups,
)
from batch_imaging.kernels.stokes import stokes_recipe
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.model.direction import Direction
from batch_imaging.model.spectral_axis import (
    FRAMES,
    Convention,
    Frame,
    SpectralAxis,
    SpectralRange,
    doppler_factor,
)
from batch_imaging.model.stations import StationLayout

LOG = logging.getLogger("batch_imaging")
Floats = NDArray[np.float64]
Axis = Literal["channel", "time", "none"]

SAME_WITHIN = 0.01  # of its width: channels of two sets are one
OVERLAP_WITHIN = 0.05  # of its width: neighbours that touch
SAME_TIME_S = 1e-3


@dataclass(frozen=True, slots=True)
class VelocityAxis:
    """An axis in equal steps of velocity: the first centre, the step, how many."""

    start_m_s: float
    step_m_s: float
    n_chan: int


@dataclass(frozen=True, slots=True)
class Selection:
    """What of the sets is imaged, along which axis.

    Attributes
    ----------
    field: number or name; None if there is one only.
    windows: numbers or names of spectral windows; empty for all.
    channels: of the axis of the planes before averaging; empty for all.
    times_mjd_s: ranges of begin and end; empty for all.
    step: planes along time are scans or integrations.
    average: channels of one plane.
    frame: of an axis to regrid to; None keeps the channels of the data.
    """

    axis: Axis = "channel"
    field: str | None = None
    windows: tuple[str, ...] = ()
    channels: tuple[SpectralRange, ...] = ()
    times_mjd_s: tuple[tuple[float, float], ...] = ()
    step: Literal["scan", "integration"] = "scan"
    column: str = "DATA"
    stokes: tuple[str, ...] = ("I",)
    average: int = 1
    frame: Frame | None = None
    rest_freq_hz: float | None = None
    convention: Convention = "radio"
    velocities: VelocityAxis | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows and channels of one set: of a group of its structure, channels and times.

    Attributes
    ----------
    channels: the first and the one after the last.
    times_mjd_s: the first and the last centre of an integration.
    """

    path: Path
    group: int
    channels: tuple[int, int]
    times_mjd_s: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Plane:
    """One image: where it stands and what it is made of.

    Attributes
    ----------
    freq_hz, width_hz: in ``frame``; of the data if that is None.
    time_mjd_s: begin and end of its integrations.
    """

    index: int
    freq_hz: float
    width_hz: float
    frame: Frame | None
    time_mjd_s: tuple[float, float]
    pieces: tuple[Piece, ...]

    @property
    def channel(self) -> int:
        """Its position in the cube, for the log."""
        return self.index

    def identity(self) -> dict[str, Any]:
        """Return all that the plane's pixels depend on, wherever in a cube or folder it stands."""
        identity = asdict(self)
        del identity["index"]
        for piece in identity["pieces"]:
            piece["path"] = piece["path"].name
        return identity


@dataclass(frozen=True, slots=True)
class PlanePlan:
    """The planes of a cube, and what its header says of them.

    Attributes
    ----------
    frame: of the planes' frequencies.
    max_uv_wavelengths: longest projected baseline at the highest frequency.
    largest: rows × channels of the plane that has most.
    """

    planes: tuple[Plane, ...]
    sets: tuple[Path, ...]
    frame: Frame
    field_name: str
    phase_centre: Direction
    stations: StationLayout
    time_mjd_s: tuple[float, float]
    max_uv_wavelengths: float
    largest: int


@dataclass(frozen=True, slots=True)
class _Source:
    """A group of rows of a set, and a run of its times that was selected."""

    structure: SetStructure
    number: int
    times_mjd_s: Floats
    interval_s: float

    @property
    def group(self) -> RowGroup:
        return self.structure.groups[self.number]

    @property
    def name(self) -> str:
        window = self.group.window
        return (
            f"{self.structure.path}, field {self.group.field_name}, spectral window "
            f"{self.group.window_id} ({window.freq_hz.mean() / 1e6:.6g} MHz)"
        )

    @property
    def axis(self) -> SpectralAxis:
        window = self.group.window
        frame = window.frame if window.frame in FRAMES else "TOPO"
        return SpectralAxis(window.freq_hz, window.chan_width_hz, frame)

    def piece(self, channels: tuple[int, int], times_mjd_s: tuple[float, float]) -> Piece:
        return Piece(self.structure.path, self.number, channels, times_mjd_s)

    def factors(self, frame: Frame) -> Floats:
        """Return (time,) by what the frequencies are multiplied to hold in ``frame``."""
        if self.group.window.frame not in FRAMES:
            raise DataError(
                f"{self.name}: its frequencies are in the frame {self.group.window.frame}, which "
                f"cannot be turned into {frame}; image it without --frame"
            )
        place = self.structure.stations.reference_itrf_m
        centre = self.group.phase_centre
        return doppler_factor(self.axis.frame, frame, self.times_mjd_s, centre, place)


def plan_planes(paths: Sequence[Path], selection: Selection) -> PlanePlan:
    """Decide on the planes, and refuse what cannot be imaged, before anything starts.

    Raises
    ------
    DataError: a set, a column, a field, a window or a time is not there, or the sets do not fit.
    """
    if not paths:
        raise ParameterError("no Measurement Sets to image; name at least one")
    structures = [describe_structure(path.absolute()) for path in paths]
    sources = [source for one in structures for source in _select_groups(one, selection)]
    if not sources:
        raise DataError(_nothing_selected(structures, selection))
    _require_one_field(sources)
    first = sources[0].group
    axis = _target_axis(sources, selection)
    chosen = axis.good
    if selection.channels:
        try:
            chosen = axis.select(selection.channels, selection.convention)
        except DataError as error:
            raise DataError(f"{', '.join(map(str, paths))}: {error}") from error
    begin = min(float(s.times_mjd_s[0]) - s.interval_s / 2 for s in sources)
    end = max(float(s.times_mjd_s[-1]) + s.interval_s / 2 for s in sources)
    planes: Iterable[Plane]
    if selection.axis == "channel":
        planes = _along_frequency(sources, axis, chosen, selection, (begin, end))
    else:
        if selection.frame is not None:
            raise ParameterError("--frame belongs to --axis channel; leave it out")
        planes = _along_time(sources, axis, chosen, _time_steps(sources, selection))
    planes = tuple(planes)
    times = {(s.structure.path, s.number): s.group.time_mjd_s for s in sources}
    return PlanePlan(
        planes,
        tuple(structure.path for structure in structures),
        axis.frame,
        first.field_name,
        first.phase_centre,
        structures[0].stations,
        (begin, end),
        _max_uv_m(sources) * float(axis.freq_hz[chosen].max()) / SPEED_OF_LIGHT_M_S,
        max(sum(_count(piece, times) for piece in plane.pieces) for plane in planes),
    )


def _count(piece: Piece, times_mjd_s: Mapping[tuple[Path, int], Floats]) -> int:
    """Return rows × channels."""
    times, (begin, end) = times_mjd_s[piece.path, piece.group], piece.times_mjd_s
    rows = np.searchsorted(times, end, side="right") - np.searchsorted(times, begin)
    return int(rows) * (piece.channels[1] - piece.channels[0])


def _select_groups(structure: SetStructure, selection: Selection) -> Iterator[_Source]:
    path = structure.path
    if selection.column not in structure.data_columns:
        raise DataError(
            f"{path}: no column {selection.column} of visibilities; "
            f"there is {', '.join(structure.data_columns) or 'none at all'}"
        )
    for number, group in enumerate(structure.groups):
        if not group.is_one_of((selection.field,) if selection.field else (), selection.windows):
            continue
        times = np.unique(group.time_mjd_s)
        inside = np.zeros(len(times), dtype=bool)
        for earliest, latest in selection.times_mjd_s or ((-np.inf, np.inf),):
            inside |= (times >= earliest) & (times <= latest)
        if not inside.any():
            continue
        missing = [s for s in selection.stokes if stokes_recipe(s, group.window.corr) is None]
        if missing:
            raise DataError(
                f"{path}: no Stokes {', '.join(missing)} can be made of its correlations "
                f"{', '.join(group.window.corr)}; choose other --stokes"
            )
        if group.window.frame not in FRAMES:
            LOG.warning(
                "%s: its frequencies are in the frame %s; the cube will call it TOPO",
                path,
                group.window.frame,
            )
        interval_s = float(np.median(read_cells(path, group.rows, "INTERVAL")))
        for begin, stop in _runs(inside):
            yield _Source(structure, number, times[begin:stop], interval_s)


def _nothing_selected(structures: Sequence[SetStructure], selection: Selection) -> str:
    groups = [group for structure in structures for group in structure.groups]
    asked = [
        f"{option} {value}"
        for option, value in (
            ("--field", selection.field),
            ("--spw", ",".join(selection.windows)),
            ("--times", "given" if selection.times_mjd_s else ""),
        )
        if value
    ]
    names = ", ".join(str(structure.path) for structure in structures)
    return f"{names}: no data for {' '.join(asked)}; {shown_groups(groups)}"


def _require_one_field(sources: Sequence[_Source]) -> None:
    first = sources[0]
    for source in sources[1:]:
        if source.group.phase_centre != first.group.phase_centre:
            raise DataError(
                f"{source.name}: its phase centre is not that of {first.name}; "
                "choose one with --field, or image the sets apart"
            )


def _target_axis(sources: Sequence[_Source], selection: Selection) -> SpectralAxis:
    """Return the axis that is imaged: of the data, or one in another frame."""
    rest_freq_hz, frame = selection.rest_freq_hz, selection.frame
    if selection.velocities is not None:
        if rest_freq_hz is None or frame is None:
            raise ParameterError("--velocities need --rest-freq and --frame; give both")
        return SpectralAxis.from_velocities(
            selection.velocities.start_m_s,
            selection.velocities.step_m_s,
            selection.velocities.n_chan,
            rest_freq_hz=rest_freq_hz,
            frame=frame,
            convention=selection.convention,
        )
    if frame is None:
        return replace(_native_axis(sources), rest_freq_hz=rest_freq_hz)
    factors = sources[0].factors(frame)
    axis = replace(_covering_axis(sources), rest_freq_hz=rest_freq_hz)
    return axis.shifted(frame, float(factors[len(factors) // 2]))


def _covering_axis(sources: Sequence[_Source]) -> SpectralAxis:
    """Return the channels of the first source, or such as wide ones over the range of all."""
    first = sources[0].axis
    if all(_same_channels(s.axis, first) for s in sources):
        return first
    width_hz = float(np.median(first.width_hz))
    low_hz = min(float(s.axis.freq_hz.min()) for s in sources)
    high_hz = max(float(s.axis.freq_hz.max()) for s in sources)
    freq_hz = np.arange(low_hz, high_hz + width_hz / 2, width_hz)
    return SpectralAxis(freq_hz, np.full(len(freq_hz), width_hz), first.frame)


def _native_axis(sources: Sequence[_Source]) -> SpectralAxis:
    """Return all different channels: of one window as stored, of several in ascending order."""
    first = sources[0].axis
    others = [s for s in sources if not _same_channels(s.axis, first)]
    if not others:
        return first
    freq_hz = np.concatenate([s.axis.freq_hz for s in sources])
    width_hz = np.concatenate([s.axis.width_hz for s in sources])
    order = np.argsort(freq_hz, kind="stable")
    freq_hz, width_hz = freq_hz[order], width_hz[order]
    new = np.diff(freq_hz, prepend=-np.inf) > SAME_WITHIN * width_hz
    freq_hz, width_hz = freq_hz[new], width_hz[new]
    touching_hz = (width_hz[1:] + width_hz[:-1]) / 2
    if (np.diff(freq_hz) < (1 - OVERLAP_WITHIN) * touching_hz).any():
        raise DataError(
            f"{others[0].name}: its channels overlap with those of {sources[0].name} and do not "
            "match them; choose one with --spw, image them apart, or regrid with --frame"
        )
    if any(s.axis.frame != first.frame for s in others):
        raise DataError(
            f"{others[0].name}: its frequencies are not in the frame of {sources[0].name}, "
            f"{first.frame}; image them apart, or regrid with --frame"
        )
    return replace(first, freq_hz=freq_hz, width_hz=width_hz)


def _same_channels(one: SpectralAxis, other: SpectralAxis) -> bool:
    if len(one) != len(other):
        return False
    return bool((np.abs(one.freq_hz - other.freq_hz) <= SAME_WITHIN * other.width_hz).all())


def _along_frequency(
    sources: Sequence[_Source],
    axis: SpectralAxis,
    chosen: NDArray[np.bool_],
    selection: Selection,
    time_mjd_s: tuple[float, float],
) -> Iterator[Plane]:
    for index, (low_hz, high_hz) in enumerate(_averaged(axis, chosen, selection.average)):
        pieces = tuple(
            source.piece(run, (float(source.times_mjd_s[0]), float(source.times_mjd_s[-1])))
            for source in sources
            for run in _channel_runs(source, low_hz, high_hz, selection.frame)
        )
        freq_hz, width_hz = (low_hz + high_hz) / 2, high_hz - low_hz
        yield Plane(index, freq_hz, width_hz, selection.frame, time_mjd_s, pieces)


def _averaged(
    axis: SpectralAxis, chosen: NDArray[np.bool_], average: int
) -> Iterator[tuple[float, float]]:
    """Yield the lower and upper edge of planes of ``average`` channels that have no gap in them."""
    numbers = np.flatnonzero(chosen)
    apart_hz = np.abs(np.diff(axis.freq_hz[numbers]))
    touching_hz = (axis.width_hz[numbers][1:] + axis.width_hz[numbers][:-1]) / 2
    gaps = np.flatnonzero(apart_hz > (1 + OVERLAP_WITHIN) * touching_hz) + 1
    for run in np.split(numbers, gaps):
        for first in range(0, len(run), average):
            members = run[first : first + average]
            low_hz = axis.freq_hz[members] - axis.width_hz[members] / 2
            high_hz = axis.freq_hz[members] + axis.width_hz[members] / 2
            yield float(low_hz.min()), float(high_hz.max())


def _channel_runs(
    source: _Source, low_hz: float, high_hz: float, frame: Frame | None
) -> Iterator[tuple[int, int]]:
    """Yield the runs of channels whose centre is between, or in another frame, that overlap."""
    axis = source.axis
    if frame is None:
        inside = (axis.freq_hz > low_hz) & (axis.freq_hz < high_hz)
    else:
        factors = source.factors(frame)
        lowest = (axis.freq_hz - axis.width_hz / 2) * factors.min()
        highest = (axis.freq_hz + axis.width_hz / 2) * factors.max()
        inside = (highest > low_hz) & (lowest < high_hz)
    yield from _runs(inside)


def _runs(inside: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]])))
    yield from ((int(begin), int(end)) for begin, end in edges.reshape(-1, 2))


def _along_time(
    sources: Sequence[_Source],
    axis: SpectralAxis,
    chosen: NDArray[np.bool_],
    steps: Sequence[tuple[float, float]],
) -> Iterator[Plane]:
    """Yield a plane a step in time, of all channels chosen."""
    low_hz = axis.freq_hz[chosen] - axis.width_hz[chosen] / 2
    high_hz = axis.freq_hz[chosen] + axis.width_hz[chosen] / 2
    runs = [list(_runs(_inside_any(source, low_hz, high_hz))) for source in sources]
    freq_hz = float(low_hz.min() + high_hz.max()) / 2
    width_hz = float(high_hz.max() - low_hz.min())
    half_s = sources[0].interval_s / 2
    for index, (first, last) in enumerate(steps):
        times = first - SAME_TIME_S, last + SAME_TIME_S
        pieces = tuple(
            source.piece(run, times)
            for source, its_runs in zip(sources, runs, strict=True)
            if ((source.times_mjd_s > times[0]) & (source.times_mjd_s < times[1])).any()
            for run in its_runs
        )
        yield Plane(index, freq_hz, width_hz, None, (first - half_s, last + half_s), pieces)


def _inside_any(source: _Source, low_hz: Floats, high_hz: Floats) -> NDArray[np.bool_]:
    freq_hz = source.axis.freq_hz[:, np.newaxis]
    return np.asarray(((freq_hz > low_hz) & (freq_hz < high_hz)).any(axis=1))


def _time_steps(sources: Sequence[_Source], selection: Selection) -> list[tuple[float, float]]:
    """Return the first and last centre of each step, ascending, over all sets together."""
    steps: list[tuple[float, float]] = []
    for source in sources:
        if selection.axis == "none":
            steps.append((float(source.times_mjd_s[0]), float(source.times_mjd_s[-1])))
        elif selection.step == "integration":
            steps += [(float(time), float(time)) for time in source.times_mjd_s]
        else:
            steps += _scans(source)
    if selection.axis == "none":
        return [(min(first for first, _ in steps), max(last for _, last in steps))]
    merged: list[tuple[float, float]] = []
    for first, last in sorted(steps):
        if merged and first <= merged[-1][1] + SAME_TIME_S:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _scans(source: _Source) -> Iterator[tuple[float, float]]:
    group = source.group
    selected = np.isin(group.time_mjd_s, source.times_mjd_s)
    scans = read_cells(source.structure.path, group.rows, "SCAN_NUMBER")[selected]
    times = group.time_mjd_s[selected]
    starts = np.flatnonzero(np.diff(scans)) + 1
    for first, stop in pairwise([0, *map(int, starts), len(times)]):
        yield float(times[first]), float(times[stop - 1])


def _max_uv_m(sources: Sequence[_Source]) -> float:
    longest = 0.0
    for source in sources:
        for rows in source.group.cut(1 << 24):
            uvw_m = read_cells(source.structure.path, rows, "UVW")
            longest = max(longest, float(np.hypot(uvw_m[:, 0], uvw_m[:, 1]).max()))
    if longest == 0:
        raise DataError(
            f"{sources[0].structure.path}: all UVW are zero, so nothing can be imaged; "
            "have them computed where the set was made, or by CASA's fixvis"
        )
    return longest
