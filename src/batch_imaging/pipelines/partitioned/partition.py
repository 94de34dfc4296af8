"""Cut Measurement Sets into parts that are imaged as independent jobs.

A part is a selection of one field and spectral window of one set: a range of its channels, its
integrations or its baselines. It can be read from the set as it stands (virtual), or be written as
a set of its own (real), which is what a job without a shared file system gets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from batch_imaging.errors import DataError, ParameterError, ResourceError
from batch_imaging.execution.journal import make_key, stamp_of
from batch_imaging.io.fits_image import publishing
from batch_imaging.io.measurement_set import (
    RowGroup,
    SetStructure,
    describe_structure,
    read_cells,
    read_rows,
    write_measurement_set,
)
from batch_imaging.kernels.stokes import stokes_recipe
from batch_imaging.model.visibility import Visibility

By = Literal["time", "spw", "channel", "baseline"]
Range = tuple[int, int]
"""The first and the one after the last."""

MANIFEST = "manifest.json"
_SAMPLE_BYTES = 13  # value, flag and weight
_ROW_BYTES = 100
_SAME_PLACE_RAD = 1e-9


@dataclass(frozen=True, slots=True)
class Part:
    """A selection of rows and channels of one set; None stands for all.

    Attributes
    ----------
    group: which field and spectral window, as `describe_structure` counts them.
    channels: as stored; integrations: of the distinct times, ascending; baselines: of the distinct
        pairs of stations, ascending.
    n_bytes: on disk, about.
    """

    path: Path
    group: int = 0
    channels: Range | None = None
    integrations: Range | None = None
    baselines: Range | None = None
    n_bytes: int = 0


@dataclass(frozen=True, slots=True)
class InputSet:
    """A set as it was when it was cut; the hash is of its name, size and latest change."""

    path: Path
    n_bytes: int
    hash: str


@dataclass(frozen=True, slots=True)
class Partition:
    """Which parts sets fall into; every sample is in one of them.

    Attributes
    ----------
    real: whether the parts are sets of their own, in the folder of the manifest.
    """

    sets: tuple[InputSet, ...]
    by: By
    max_bytes: float
    column: str
    real: bool
    parts: tuple[Part, ...]

    def file_of(self, number: int) -> Path:
        """Return the set that holds a part: the one it was cut from, or its own."""
        return Path(f"part-{number:04}.ms") if self.real else self.parts[number].path


def plan_partition(
    sets: Sequence[Path],
    by: By,
    max_bytes: float,
    *,
    column: str = "DATA",
    field: str | None = None,
    real: bool = False,
) -> Partition:
    """Cut sets into equal parts of at most ``max_bytes`` each.

    Parameters
    ----------
    by: what is cut; fields, spectral windows and sets are always apart.
    field: its name or number, where sets have more than one.

    Raises
    ------
    DataError: the sets cannot be imaged together, or lack the column or parallel hands.
    ParameterError: parts cannot be made that small this way.
    """
    paths = [Path(path).absolute() for path in sets]
    if len({path.name for path in paths}) < len(paths):
        raise ParameterError(
            "two of the sets have the same name: jobs get copies side by side, so give each set "
            "once, or make links of different names"
        )
    structures = [describe_structure(path) for path in paths]
    chosen = [
        (structure, number, group)
        for structure in structures
        for number, group in enumerate(structure.groups)
        if field in (None, group.field_name, str(group.field_id))
    ]
    _require_one_image(structures, chosen, column, field)
    parts: list[Part] = []
    for structure, number, group in chosen:
        parts += _cut(structure.path, number, _Rows.of(structure.path, group), by, max_bytes)
    return Partition(tuple(map(_input_set, paths)), by, max_bytes, column, real, tuple(parts))


def _input_set(path: Path) -> InputSet:
    stamp = stamp_of(path)
    return InputSet(path, stamp[1], make_key(stamp=stamp))


def _require_one_image(
    structures: Sequence[SetStructure],
    chosen: Sequence[tuple[SetStructure, int, RowGroup]],
    column: str,
    field: str | None,
) -> None:
    if not chosen:
        names = sorted({g.field_name for s in structures for g in s.groups})
        raise DataError(f"--field {field}: no such field; there are {', '.join(names)}")
    first = chosen[0][2]
    for structure, _, group in chosen:
        if column not in structure.data_columns:
            raise DataError(
                f"{structure.path}: no column {column} of visibilities; there is "
                f"{', '.join(structure.data_columns) or 'none at all'}"
            )
        if stokes_recipe("I", group.window.corr) is None:
            raise DataError(
                f"{structure.path}: Stokes I cannot be made of {', '.join(group.window.corr)}; "
                "give a set with parallel hands"
            )
        apart_rad = np.subtract(
            (group.phase_centre.ra_rad, group.phase_centre.dec_rad),
            (first.phase_centre.ra_rad, first.phase_centre.dec_rad),
        )
        if np.abs(apart_rad).max() > _SAME_PLACE_RAD:
            raise DataError(
                f"{structure.path}: field {group.field_name} has another phase centre than "
                f"{first.field_name}; image them apart, each with --field"
            )


@dataclass(frozen=True, slots=True)
class _Rows:
    """The cross-correlations of a group, and a number (row,) for the pair of stations of each."""

    group: RowGroup
    pair: NDArray[np.int64]

    @classmethod
    def of(cls, path: Path, group: RowGroup) -> "_Rows":
        first, second = (
            read_cells(path, group.rows, f"ANTENNA{k}").astype(np.int64) for k in (1, 2)
        )
        cross = first != second
        if not cross.any():
            raise DataError(
                f"{path}: field {group.field_name}, spectral window {group.window_id} has "
                "autocorrelations only; give a set with baselines between stations"
            )
        low, high = np.minimum(first, second), np.maximum(first, second)
        kept = replace(group, rows=group.rows[cross], time_mjd_s=group.time_mjd_s[cross])
        return cls(kept, (low * (high.max() + 1) + high)[cross])


def _cut(path: Path, number: int, rows: _Rows, by: By, max_bytes: float) -> list[Part]:
    window = rows.group.window
    n_chan, n_corr = len(window.freq_hz), len(window.corr)
    n_bytes = len(rows.pair) * (_ROW_BYTES + _SAMPLE_BYTES * n_chan * n_corr)
    name, length = {
        "spw": ("group", 1),
        "channel": ("channels", n_chan),
        "time": ("integrations", len(np.unique(rows.group.time_mjd_s))),
        "baseline": ("baselines", len(np.unique(rows.pair))),
    }[by]
    most = int(max_bytes * length // n_bytes)  # in one part
    if most == 0:
        raise ParameterError(
            f"{path}: spectral window {rows.group.window_id} is about {n_bytes / 1e6:.3g} MB; "
            f"cut by {by} into all it can be, {length}, parts are larger than "
            f"{max_bytes / 1e6:.3g} MB: cut it by something else, or allow larger parts"
        )
    count = -(-length // most)
    whole = Part(path, number, n_bytes=n_bytes // count)
    if count == 1:
        return [whole]
    cuts = np.linspace(0, length, count + 1).round().astype(int).tolist()
    ranges: list[dict[str, Any]] = [{name: cut} for cut in pairwise(cuts)]
    return [replace(whole, **one) for one in ranges]


def read_part(part: Part, column: str) -> tuple[Visibility, str]:
    """Return a part, without autocorrelations, and the frame of its frequencies.

    Raises
    ------
    DataError: the set cannot be read, or is not the one the part was cut from.
    """
    structure = describe_structure(part.path)
    if part.group >= len(structure.groups):
        raise DataError(f"{part.path}: has changed since it was cut into parts; cut it again")
    cross = _Rows.of(part.path, structure.groups[part.group])
    group, window = cross.group, cross.group.window
    rows = group.rows[
        _within(group.time_mjd_s, part.integrations) & _within(cross.pair, part.baselines)
    ]
    if len(rows) == 0:
        raise DataError(f"{part.path}: has changed since it was cut into parts; cut it again")
    block = read_rows(part.path, rows, column, part.channels)
    block.weight[~block.uvw_m.any(axis=1)] = 0
    channels = slice(*(part.channels or (None,)))
    visibility = Visibility(
        uvw_m=block.uvw_m,
        time_mjd_s=block.time_mjd_s,
        antenna1=block.antenna1,
        antenna2=block.antenna2,
        vis=block.vis,
        weight=block.weight,
        freq_hz=window.freq_hz[channels],
        chan_width_hz=window.chan_width_hz[channels],
        corr=window.corr,
        integration_s=float(np.median(read_cells(part.path, rows, "INTERVAL"))),
        phase_centre=group.phase_centre,
        stations=structure.stations,
        field_name=group.field_name,
    )
    return visibility, window.frame


def _within(values: NDArray[np.generic], chosen: Range | None) -> NDArray[np.bool_]:
    """Return (row,) whether the value is within a range of the distinct ones."""
    _, number = np.unique(values, return_inverse=True)
    begin, end = chosen or (0, len(values))
    return np.asarray((number >= begin) & (number < end))


def write_parts(partition: Partition, folder: Path) -> None:
    """Write every part as a set of its own, of the same name in ``folder`` in every run.

    Raises
    ------
    ProductError: one cannot be written; nothing half-written stays.
    """
    for number, part in enumerate(partition.parts):
        write_part(part, partition.column, folder / partition.file_of(number))


def write_part(part: Part, column: str, path: Path) -> Path:
    """Write one part as a Measurement Set with its visibilities in DATA (a unit of work)."""
    block, frame = read_part(part, column)
    write_measurement_set(path, block, frame=frame)
    return path


def write_manifest(partition: Partition, folder: Path) -> Path:
    """Write which parts there are, of which sets, as JSON."""
    path = folder / MANIFEST
    with publishing(path) as partial:
        partial.write_bytes(TypeAdapter(Partition).dump_json(partition, indent=1) + b"\n")
    return path


def require_space(partition: Partition, free_bytes: float) -> None:
    """Refuse real parts for which the disk has no space."""
    needed_bytes = sum(part.n_bytes for part in partition.parts)
    if partition.real and needed_bytes > free_bytes:
        raise ResourceError(
            f"the parts take about {needed_bytes / 1e9:.3g} GB and {free_bytes / 1e9:.3g} GB are "
            "free; choose another --output, or virtual parts"
        )
