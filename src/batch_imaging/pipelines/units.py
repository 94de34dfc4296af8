"""Units of imaging work: which part of which Measurement Sets one task handles at a time."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import DataError
from batch_imaging.execution.unit_size import CACHE_BYTES, UNIT_BYTES, unit_bytes
from batch_imaging.io.measurement_set import (
    MeasurementSetInfo,
    describe_measurement_set,
    read_measurement_set,
)
from batch_imaging.kernels.components import BaselineFactors, factor_baselines
from batch_imaging.model.beam import SPEED_OF_LIGHT_M_S
from batch_imaging.model.visibility import Visibility

POOR_GROUP_SHARE = 0.2  # of an equal share of the data


@dataclass(frozen=True, slots=True)
class Window:
    """A run of channels of one Measurement Set that shares its gains and makes one plane.

    Attributes
    ----------
    index: position along the frequency axis of the products.
    channels: first channel and the one after the last, as stored.
    """

    index: int
    path: Path
    channels: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Unit:
    """Windows with the same rows, gridded in one call, and a range of integrations.

    Attributes
    ----------
    group: which plane of the joint deconvolution it goes into.
    integrations: first integration and the one after the last.
    """

    windows: tuple[Window, ...]
    integrations: tuple[int, int]
    group: int = 0

    @property
    def channel(self) -> str:
        """The positions of its windows along the frequency axis, for the log."""
        first, last = self.windows[0].index, self.windows[-1].index
        return f"{first}-{last}" if first != last else str(first)


@dataclass(frozen=True, slots=True)
class LoadedUnit:
    """A unit's data.

    Attributes
    ----------
    block: all channels of all windows, stacked along frequency.
    window_of_chan: (chan,) position in ``unit.windows`` of each channel.
    factors: the rows as differences of stations, or None where they are none.
    """

    block: Visibility
    window_of_chan: NDArray[np.intp]
    factors: BaselineFactors | None


@dataclass(frozen=True, slots=True)
class Observation:
    """What is to be imaged: windows in order of frequency, of one field and array.

    Attributes
    ----------
    infos: one a window.
    freq_hz, chan_width_hz: (window,) centre and full width of each window.
    """

    infos: tuple[MeasurementSetInfo, ...]
    windows: tuple[Window, ...]
    freq_hz: NDArray[np.float64]
    chan_width_hz: NDArray[np.float64]

    @property
    def time_range_mjd_s(self) -> tuple[float, float]:
        """Begin of the first and end of the last integration."""
        ranges = [info.time_range_mjd_s for info in self.infos]
        return min(begin for begin, _ in ranges), max(end for _, end in ranges)


def survey(path: Path) -> MeasurementSetInfo:
    """Describe one Measurement Set (a unit of work)."""
    return describe_measurement_set(path)


def make_observation(infos: Sequence[MeasurementSetInfo], min_windows: int = 1) -> Observation:
    """Put Measurement Sets in order of frequency and check that they belong together.

    Each set is one window; if that gives fewer than ``min_windows``, each is split into as many
    runs of channels as are needed (and can be had).

    Raises
    ------
    DataError: no sets; phase centres, stations, correlations or integrations differ; frequencies
        overlap.
    """
    if not infos:
        raise DataError("no Measurement Sets to image: name at least one")
    ordered = tuple(sorted(infos, key=lambda info: float(info.freq_hz.mean())))
    first = ordered[0]
    for info in ordered[1:]:
        if info.phase_centre != first.phase_centre:
            raise DataError(
                f"{info.path}: its phase centre is not that of {first.path}; image them apart"
            )
        if info.stations.names != first.stations.names or info.corr != first.corr:
            raise DataError(
                f"{info.path}: its stations or correlations are not those of {first.path}; "
                "image them apart"
            )
        if (info.n_integrations, info.time_range_mjd_s) != (
            first.n_integrations,
            first.time_range_mjd_s,
        ):
            raise DataError(
                f"{info.path}: its integrations are not those of {first.path}, and gains are "
                "solved for all windows at the same times; image them apart"
            )
    parts = -(-min_windows // len(ordered))
    runs = [
        (info, (int(begin), int(end)))
        for info in ordered
        for begin, end in _runs_of_channels(info, parts)
    ]
    runs.sort(key=lambda run: float(run[0].freq_hz[slice(*run[1])].mean()))
    freq_hz = np.array([info.freq_hz[slice(*run)].mean() for info, run in runs])
    last_hz = -np.inf
    for info, run in runs:
        channels_hz = np.sort(info.freq_hz[slice(*run)])
        if channels_hz[0] <= last_hz:
            raise DataError(
                f"{info.path}: has channels at the frequencies of another set; name each set once, "
                "or image the sets apart"
            )
        last_hz = channels_hz[-1]
    return Observation(
        infos=tuple(info for info, _ in runs),
        windows=tuple(Window(index, info.path, run) for index, (info, run) in enumerate(runs)),
        freq_hz=freq_hz,
        chan_width_hz=np.array([info.chan_width_hz[slice(*run)].sum() for info, run in runs]),
    )


def _runs_of_channels(info: MeasurementSetInfo, parts: int) -> Iterator[tuple[int, int]]:
    n_chan = len(info.freq_hz)
    cuts = np.linspace(0, n_chan, min(parts, n_chan) + 1).round().astype(int)
    yield from itertools.pairwise(cuts)


def group_windows(window_weight: NDArray[np.float64], n_groups: int) -> list[list[int]]:
    """Deal windows to neighbourhoods in frequency that hold about as much data each.

    Fewer groups than ``n_groups`` come back where one would hold next to nothing: its flux would be
    noise and a spectrum fitted through it too. Windows without data are in none.
    """
    total = window_weight.sum()
    middle = (np.cumsum(window_weight) - window_weight / 2) / total
    good = np.flatnonzero(window_weight > 0)
    for n in range(min(n_groups, len(good)), 1, -1):
        group = np.minimum((n * middle[good]).astype(int), n - 1)
        shares = np.bincount(group, window_weight[good], n) / total
        if shares.min() >= POOR_GROUP_SHARE / n:
            return [good[group == g].tolist() for g in range(n)]
    return [good.tolist()]


def plan_units(observation: Observation, groups: Sequence[Sequence[int]]) -> tuple[Unit, ...]:
    """Cut the data into units for joint imaging, independent of the number of workers.

    ``groups`` are the indices of the windows of each plane of the joint deconvolution. Within one,
    sets with the same rows are stacked, because one gridding call of many channels costs a fraction
    of many calls; then integrations are cut so that no unit is larger than UNIT_BYTES.
    """
    units: list[Unit] = []
    for group, members in enumerate(groups):
        stack: list[int] = []
        for index in members:
            if stack and not _stackable(observation, stack, index):
                units += _cut_in_time(observation, stack, group)
                stack = []
            stack.append(index)
        units += _cut_in_time(observation, stack, group)
    return tuple(units)


def window_units(observation: Observation, window: Window) -> tuple[Unit, ...]:
    """Return the units of one window alone."""
    return tuple(_cut_in_time(observation, [window.index], 0))


def _stackable(observation: Observation, stack: list[int], index: int) -> bool:
    first, info = observation.infos[stack[0]], observation.infos[index]
    same_rows = first.rows_digest == info.rows_digest
    return same_rows and _unit_bytes(observation, [*stack, index]) <= UNIT_BYTES


def _unit_bytes(observation: Observation, indices: list[int]) -> int:
    infos = [observation.infos[i] for i in indices]
    n_chan = sum(end - begin for begin, end in (observation.windows[i].channels for i in indices))
    return unit_bytes(infos[0].n_rows, n_chan * len(infos[0].corr))


def _cut_in_time(observation: Observation, indices: list[int], group: int) -> list[Unit]:
    n_integrations = observation.infos[indices[0]].n_integrations
    pieces = min(-(-_unit_bytes(observation, indices) // UNIT_BYTES), n_integrations)
    cuts = np.linspace(0, n_integrations, pieces + 1).round().astype(int)
    windows = tuple(observation.windows[i] for i in indices)
    return [Unit(windows, (int(begin), int(end)), group) for begin, end in itertools.pairwise(cuts)]


_cache: OrderedDict[tuple[object, ...], LoadedUnit] = OrderedDict()


def load_unit(unit: Unit) -> LoadedUnit:
    """Read a unit, or return it from this process's cache of the last ones used."""
    key = (
        tuple((w.path, w.channels, _last_change_ns(w.path)) for w in unit.windows),
        unit.integrations,
    )
    if key in _cache:
        _cache.move_to_end(key)
        return _cache[key]
    loaded = _read(unit)
    _cache[key] = loaded
    while len(_cache) > 1 and sum(item.block.nbytes for item in _cache.values()) > CACHE_BYTES:
        _cache.popitem(last=False)
    return loaded


def _last_change_ns(path: Path) -> int:
    """Return when a set was last written to; flagging changes files in it, not the folder."""
    return max(file.stat().st_mtime_ns for file in path.iterdir())


def _read(unit: Unit) -> LoadedUnit:
    blocks = [
        read_measurement_set(
            window.path,
            channels=slice(*window.channels),
            integrations=slice(*unit.integrations),
            allow_all_flagged=True,
        )
        for window in unit.windows
    ]
    first = blocks[0]
    block = replace(
        first,
        vis=np.concatenate([b.vis for b in blocks], axis=1),
        weight=np.concatenate([b.weight for b in blocks], axis=1),
        freq_hz=np.concatenate([b.freq_hz for b in blocks]),
        chan_width_hz=np.concatenate([b.chan_width_hz for b in blocks]),
    )
    window_of_chan = np.repeat(np.arange(len(blocks)), [len(b.freq_hz) for b in blocks])
    tolerance_m = 1e-4 * SPEED_OF_LIGHT_M_S / float(block.freq_hz.max())
    factors = factor_baselines(
        block.uvw_m,
        block.time_mjd_s,
        block.antenna1,
        block.antenna2,
        len(block.stations),
        tolerance_m,
    )
    return LoadedUnit(block, window_of_chan, factors)
