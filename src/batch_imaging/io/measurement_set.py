"""Measurement Sets, version 2 (casacore note 229): write one from a block, describe one, read one.

Blocks are of one field and one spectral window; rows of any set are read and written a range at a
time. Two conventions meet here:

- UVW is antenna2 − antenna1, in a block as in a set; but the programs that read sets (CASA, DP3,
  WSClean) take V = ∫ I exp(+2πi(ul + vm + w(n−1))) with it, where blocks have exp(−2πi(…)). So
  DATA holds the complex conjugates of a block's visibilities, both ways, and nothing else changes.
- In a block that was read, a sample either has a finite value and a positive weight, or its value
  and weight are zero: flags, NaN and odd weights end here.
"""

import hashlib
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from casacore.tables import (
    default_ms,
    default_ms_subtable,
    makearrcoldesc,
    makecoldesc,
    maketabdesc,
    table,
)
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ProductError
from batch_imaging.model.direction import Direction
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility

Table: TypeAlias = Any  # casacore.tables.table has no types
Integers: TypeAlias = NDArray[np.integer[Any]]
Floats: TypeAlias = NDArray[np.float64]

# casacore's codes: Stokes::StokesTypes, MFrequency::Types.
_STOKES = ("I", "Q", "U", "V", "RR", "RL", "LR", "LL", "XX", "XY", "YX", "YY")
_CORR_CODES = {name: code for code, name in enumerate(_STOKES, start=1)}
_CORR_NAMES = {code: name for name, code in _CORR_CODES.items()}
_PARALLEL_HANDS = ("RR", "LL", "XX", "YY")
_TOPO = 5
_FRAMES = {0: "REST", 1: "LSRK", 2: "LSRD", 3: "BARY", 4: "GEO", 5: "TOPO"}
_FRAME_CODES = {name: code for code, name in _FRAMES.items()}

_UNIX_EPOCH_MJD_S = 40_587 * 86_400.0
_DIRECTION_COLUMNS = ("DELAY_DIR", "PHASE_DIR", "REFERENCE_DIR", "DIRECTION")

# One value holds for many rows in turn: IncrementalStMan stores only the changes.
_SLOW_COLUMNS = [
    "TIME",
    "TIME_CENTROID",
    "INTERVAL",
    "EXPOSURE",
    "SCAN_NUMBER",
    "STATE_ID",
    "ARRAY_ID",
    "DATA_DESC_ID",
    "FEED1",
    "FEED2",
    "FIELD_ID",
    "OBSERVATION_ID",
    "PROCESSOR_ID",
]
_REQUIRED_SUBTABLES = frozenset(
    ("ANTENNA", "DATA_DESCRIPTION", "FIELD", "OBSERVATION", "POLARIZATION", "SPECTRAL_WINDOW")
)
_TILE_SAMPLES = 1 << 16  # half a MiB of DATA
_TILE_CHANNELS = 16  # a few channels of many can be read without reading all
_NEEDED = {"UVW", "FLAG", "FLAG_ROW", "WEIGHT", "TIME", "INTERVAL", "ANTENNA1", "ANTENNA2"}
_LOCK_ATTEMPTS = 600  # one a second, while other processes write their rows


# ------------------------------------------------------------------------------------- writing


def write_measurement_set(
    path: Path,
    block: Visibility,
    *,
    observer: str = "",
    project: str = "",
    execution_block: str = "",
    frame: str = "TOPO",
) -> None:
    """Write a complete Measurement Set of one field and one spectral window.

    It is written as ``<path>.partial`` and renamed when complete. A Measurement Set that stands at
    ``path`` is replaced in that moment; anything else there is refused, not deleted.

    Samples without a positive weight or a finite value are flagged. WEIGHT is the mean over the
    channels that are not; WEIGHT_SPECTRUM is written where it differs from that.

    Parameters
    ----------
    path: folder to be, in a folder that exists.
    execution_block: id that goes to OBSERVATION::SCHEDULE.
    frame: in which the frequencies hold.

    Raises
    ------
    ProductError: it cannot be written; nothing half-written stays.
    """
    partial = path.with_name(f"{path.name}.partial")
    if path.exists() and not (path / "table.dat").is_file():
        raise ProductError(
            f"{path}: something other than a Measurement Set has this name, so it is not replaced; "
            "move it away or choose another name"
        )
    try:
        if partial.exists():
            shutil.rmtree(partial)
        _write_main(partial, block)
        _write_field_and_spectrum(partial, block, frame)
        _write_array(partial, block)
        _write_observation(partial, block, observer, project, execution_block)
        _move_into_place(partial, path)
    except (RuntimeError, OSError) as error:
        raise ProductError(
            f"{path}: cannot be written ({_first_line(error)}); "
            "look whether the folder above it exists, may be written and has space"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_into_place(partial: Path, path: Path) -> None:
    """Rename a complete set; one that stands at ``path`` is lost only when the new one is there."""
    replaced = path.with_name(f"{path.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if not path.exists():
        partial.rename(path)
        return
    path.rename(replaced)
    try:
        partial.rename(path)
    except OSError:
        replaced.rename(path)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _write_main(path: Path, block: Visibility) -> None:
    n_rows, n_chan, n_corr = block.vis.shape
    finite = np.isfinite(block.vis)
    good = finite & np.isfinite(block.weight) & (block.weight > 0)
    weight_spectrum = np.where(good, block.weight, np.float32(0))
    n_good = np.maximum(np.count_nonzero(good, axis=1), 1)
    weight = (weight_spectrum.sum(axis=1, dtype=float) / n_good).astype(np.float32)
    # CASA's mark for a SIGMA that is not known; zero would claim a perfect sample.
    sigma = np.full_like(weight, -1)
    np.divide(1, np.sqrt(weight), out=sigma, where=weight > 0)

    interval_s = np.full(n_rows, block.integration_s)
    columns: dict[str, NDArray[Any]] = {
        "DATA": np.where(finite, block.vis, np.complex64(0)).conj(),
        "FLAG": ~good,
        "WEIGHT": weight,
        "SIGMA": sigma,
        "UVW": block.uvw_m,
        "FLAG_ROW": np.asarray(~good.any(axis=(1, 2))),
        "ANTENNA1": block.antenna1,
        "ANTENNA2": block.antenna2,
        "TIME": block.time_mjd_s,
        "TIME_CENTROID": block.time_mjd_s,
        "INTERVAL": interval_s,
        "EXPOSURE": interval_s,
        "SCAN_NUMBER": np.ones(n_rows, np.int32),
    }
    if (good & (weight_spectrum != weight[:, np.newaxis])).any():
        columns["WEIGHT_SPECTRUM"] = weight_spectrum

    description, managers = _main_layout(n_chan, n_corr, "WEIGHT_SPECTRUM" in columns)
    with default_ms(str(path), description, managers) as main:
        main.addrows(n_rows)
        for name, values in columns.items():
            main.putcol(name, values)
        main.putcolkeyword("UVW", "MEASINFO", {"type": "uvw", "Ref": "ICRS"})


def _main_layout(n_chan: int, n_corr: int, weight_spectrum: bool) -> tuple[Any, dict[str, Any]]:
    """Return casacore's description of the array columns of MAIN, and its storage managers.

    Tile shapes have the fastest axis first: correlation, channel, row.
    """
    cube, row = [n_chan, n_corr], [n_corr]
    arrays = {
        "DATA": ("complex", cube),
        "FLAG": ("boolean", cube),
        "WEIGHT": ("float", row),
        "SIGMA": ("float", row),
        "UVW": ("double", [3]),
    }
    if weight_spectrum:
        arrays["WEIGHT_SPECTRUM"] = ("float", cube)
    fixed_shape = 5  # ColumnDesc::Direct | ColumnDesc::FixedShape
    description = maketabdesc(
        [
            makearrcoldesc(name, 0, valuetype=value_type, shape=shape, options=fixed_shape)
            for name, (value_type, shape) in arrays.items()
            if name != "UVW"  # casacore has described it already
        ]
    )
    managers: dict[str, Any] = {
        "*1": {"TYPE": "IncrementalStMan", "NAME": "Slow", "COLUMNS": _SLOW_COLUMNS, "SPEC": {}}
    }
    for number, (name, (_, shape)) in enumerate(arrays.items(), start=2):
        cell = [min(length, _TILE_CHANNELS) for length in reversed(shape)]
        tile = [*cell, max(1, _TILE_SAMPLES // int(np.prod(cell)))]
        managers[f"*{number}"] = {
            "TYPE": "TiledColumnStMan",
            "NAME": f"Tiled{name}",
            "COLUMNS": [name],
            "SPEC": {"DEFAULTTILESHAPE": tile},
        }
    return description, managers


def _write_field_and_spectrum(path: Path, block: Visibility, frame: str) -> None:
    """Write FIELD, SOURCE, SPECTRAL_WINDOW, POLARIZATION and DATA_DESCRIPTION."""
    start, end = _time_range_mjd_s(block.time_mjd_s, block.integration_s)
    centre = np.array([block.phase_centre.ra_rad, block.phase_centre.dec_rad])
    directions = dict.fromkeys(("DELAY_DIR", "PHASE_DIR", "REFERENCE_DIR"), centre[np.newaxis])
    _fill(path, "FIELD", {**directions, "NAME": block.field_name, "TIME": start})
    with (
        default_ms_subtable("SOURCE", str(path / "SOURCE")) as source,
        table(str(path), readonly=False, ack=False) as main,
    ):
        main.putkeyword("SOURCE", source)
    _fill(
        path,
        "SOURCE",
        {
            "DIRECTION": centre,
            "PROPER_MOTION": np.zeros(2),
            "NAME": block.field_name,
            "TIME": (start + end) / 2,
            "INTERVAL": end - start,
            "SPECTRAL_WINDOW_ID": -1,
        },
    )
    freq_hz, width_hz = block.freq_hz, block.chan_width_hz
    _fill(
        path,
        "SPECTRAL_WINDOW",
        {
            "NUM_CHAN": len(freq_hz),
            "CHAN_FREQ": freq_hz,
            "CHAN_WIDTH": np.copysign(width_hz, freq_hz[-1] - freq_hz[0]),
            "EFFECTIVE_BW": width_hz,
            "RESOLUTION": width_hz,
            "REF_FREQUENCY": float(freq_hz.mean()),
            "TOTAL_BANDWIDTH": float(width_hz.sum()),
            "MEAS_FREQ_REF": _FRAME_CODES.get(frame, _TOPO),
            "NET_SIDEBAND": 1,
            "NAME": f"{freq_hz.mean() / 1e6:.6g} MHz",
        },
    )
    codes = [_CORR_CODES[name] for name in block.corr]
    receptor = {"I": 0, "R": 0, "X": 0, "L": 1, "Y": 1}
    hands = [[receptor[name[0]], receptor[name[-1]]] for name in block.corr]
    _fill(
        path,
        "POLARIZATION",
        {
            "NUM_CORR": len(block.corr),
            "CORR_TYPE": np.array(codes, np.int32),
            "CORR_PRODUCT": np.array(hands, np.int32),
        },
    )
    _fill(path, "DATA_DESCRIPTION", {})


def _write_array(path: Path, block: Visibility) -> None:
    """Write ANTENNA and FEED."""
    stations, n_stations = block.stations, len(block.stations)
    _fill(
        path,
        "ANTENNA",
        {"TYPE": "GROUND-BASED", "MOUNT": "X-Y"},  # the mount LOFAR's sets give fixed stations
        each={
            "NAME": list(stations.names),
            "STATION": list(stations.names),
            "POSITION": stations.itrf_m,
            "OFFSET": np.zeros((n_stations, 3)),
            "DISH_DIAMETER": stations.diameter_m,
        },
        rows=n_stations,
    )
    circular = block.corr[0] in ("RR", "LL")
    _fill(
        path,
        "FEED",
        {
            "NUM_RECEPTORS": 2,
            "POLARIZATION_TYPE": np.array(["R", "L"] if circular else ["X", "Y"]),
            "POL_RESPONSE": np.eye(2, dtype=np.complex64),
            "RECEPTOR_ANGLE": np.zeros(2),
            "BEAM_OFFSET": np.zeros((2, 2)),
            "POSITION": np.zeros(3),
            "BEAM_ID": -1,
            "SPECTRAL_WINDOW_ID": -1,
            "TIME": float(block.time_mjd_s.min()),
            "INTERVAL": 0.0,  # valid for ever
        },
        each={"ANTENNA_ID": np.arange(n_stations, dtype=np.int32)},
        rows=n_stations,
    )


def _write_observation(
    path: Path, block: Visibility, observer: str, project: str, execution_block: str
) -> None:
    """Write OBSERVATION, STATE, PROCESSOR and HISTORY; FLAG_CMD and POINTING stay empty."""
    start, end = _time_range_mjd_s(block.time_mjd_s, block.integration_s)
    _fill(
        path,
        "OBSERVATION",
        {
            "TELESCOPE_NAME": block.stations.array_name,
            "TIME_RANGE": np.array([start, end]),
            "OBSERVER": observer,
            "PROJECT": project,
            "SCHEDULE_TYPE": "SKA" if execution_block else "",
            "SCHEDULE": np.array([f"ExecBlock {execution_block}" if execution_block else ""]),
            "LOG": np.array([""]),
            "RELEASE_DATE": end,
        },
    )
    _fill(path, "STATE", {"OBS_MODE": "OBSERVE_TARGET#ON_SOURCE", "SIG": True})
    _fill(path, "PROCESSOR", {"TYPE": "CORRELATOR", "TYPE_ID": -1, "MODE_ID": -1})
    _fill(
        path,
        "HISTORY",
        {
            "TIME": time.time() + _UNIX_EPOCH_MJD_S,
            "APPLICATION": "batch_imaging",
            "ORIGIN": __name__,
            "MESSAGE": "Measurement Set written",
            "PRIORITY": "INFO",
            "OBJECT_ID": -1,
            "CLI_COMMAND": np.array([""]),
            "APP_PARAMS": np.array([""]),
        },
    )


def _fill(
    path: Path,
    subtable: str,
    same: Mapping[str, Any],
    *,
    each: Mapping[str, Any] | None = None,
    rows: int = 1,
) -> None:
    """Add rows to a subtable: ``same`` are cells that all rows share, ``each`` whole columns."""
    with table(str(path / subtable), readonly=False, ack=False) as sub:
        sub.addrows(rows)
        for name, cell in same.items():
            repeated = [cell] * rows
            sub.putcol(name, np.stack(repeated) if isinstance(cell, np.ndarray) else repeated)
            if name in _DIRECTION_COLUMNS:
                sub.putcolkeyword(name, "MEASINFO", {"type": "direction", "Ref": "ICRS"})
        for name, column in (each or {}).items():
            sub.putcol(name, column)


# ------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class MeasurementSetInfo:
    """What a Measurement Set holds, as far as can be said without reading visibilities.

    Attributes
    ----------
    n_rows: rows without autocorrelations.
    n_integrations: distinct times of these rows.
    n_baselines: distinct pairs of different stations.
    time_range_mjd_s: begin of the first and end of the last integration, UTC.
    integration_s: median length of an integration.
    freq_hz, chan_width_hz: (chan,) float64, centres and (positive) widths, in the order stored.
    stored_corr: names of the correlations in the set.
    corr: those of them that are read: the parallel hands, or Stokes I.
    max_uv_m: longest projected baseline, metres.
    rows_digest: the same for two sets only if their rows have the same times, antennas and UVW.
    data_columns: columns of visibilities, e.g. ("DATA", "CORRECTED_DATA").
    """

    path: Path
    n_rows: int
    n_integrations: int
    n_baselines: int
    time_range_mjd_s: tuple[float, float]
    integration_s: float
    freq_hz: Floats
    chan_width_hz: Floats
    stored_corr: tuple[str, ...]
    corr: tuple[str, ...]
    phase_centre: Direction
    field_name: str
    stations: StationLayout
    max_uv_m: float
    rows_digest: str
    data_columns: tuple[str, ...]


def describe_measurement_set(path: Path) -> MeasurementSetInfo:
    """Describe a Measurement Set without reading its visibilities.

    Raises
    ------
    DataError: as ``read_measurement_set``, except that flags are not looked at.
    """
    with _open(path) as main:
        setup = _read_setup(main, path)
        times, rows = _cross_rows(main, path)
        source = _RowSource.of(main, rows)
        antennas = np.stack([source.read("ANTENNA1"), source.read("ANTENNA2")])
        first, second = np.sort(antennas, axis=0)
        integration_s = float(np.median(source.read("INTERVAL")))
        uvw_m, _ = _read_uvw_m(source)
        _require_uvw(path, uvw_m)
        return MeasurementSetInfo(
            path=path,
            n_rows=len(rows),
            n_integrations=len(np.unique(times)),
            n_baselines=len(np.unique(first * len(setup.stations) + second)),
            time_range_mjd_s=_time_range_mjd_s(times, integration_s),
            integration_s=integration_s,
            freq_hz=setup.freq_hz,
            chan_width_hz=setup.chan_width_hz,
            stored_corr=setup.stored_corr,
            corr=setup.corr,
            phase_centre=setup.phase_centre,
            field_name=setup.field_name,
            stations=setup.stations,
            max_uv_m=float(np.hypot(uvw_m[:, 0], uvw_m[:, 1]).max()),
            rows_digest=_digest(times, antennas, uvw_m),
            data_columns=_data_columns(main),
        )


def read_measurement_set(
    path: Path,
    *,
    column: str = "DATA",
    channels: slice | None = None,
    integrations: slice | None = None,
    allow_all_flagged: bool = False,
) -> Visibility:
    """Read a Measurement Set of one field and one spectral window, or a part of it.

    Autocorrelations and cross hands are left out. Samples that are flagged, not finite, without a
    positive weight or without UVW become zero in value and weight. Weights are WEIGHT_SPECTRUM
    where it is filled, else WEIGHT, as they stand. Rows are sorted by time, then as stored. TIME
    is taken as UTC; UT1, which some sets name, stays within 0.9 s of it.

    Parameters
    ----------
    column: column of the visibilities.
    channels: selection of channels, as stored; they come in stored order.
    integrations: selection among the distinct times, ascending.
    allow_all_flagged: return a selection without any good sample, or UVW, instead of raising.

    Raises
    ------
    DataError: there is no such Measurement Set, or it is damaged; several fields or spectral
        windows are in use; no cross-correlations, parallel hands or such column; nothing selected;
        all samples flagged; all UVW zero; a phase centre that moves or is neither ICRS nor J2000.
    """
    with _open(path) as main:
        setup = _read_setup(main, path)
        if column not in _data_columns(main):
            raise DataError(
                f"{path}: no column {column} of visibilities; "
                f"there is {', '.join(_data_columns(main)) or 'none at all'}"
            )
        times, rows = _cross_rows(main, path)
        if integrations is not None:
            instants, instant_of_row = np.unique(times, return_inverse=True)
            wanted = _select(path, "integrations", len(instants), integrations)
            selected = (instant_of_row >= wanted.start) & (instant_of_row < wanted.stop)
            selected &= (instant_of_row - wanted.start) % wanted.step == 0
            rows = rows[selected]
        chans = _select(path, "channels", len(setup.freq_hz), channels or slice(None))
        block = _read_block(_RowSource.of(main, rows), setup, column, chans)
    if allow_all_flagged:
        return block
    _require_uvw(path, block.uvw_m)
    if not block.weight.any():
        raise DataError(
            f"{path}: all samples asked for of {column} are flagged, not finite or without weight; "
            "ask for others, or give a set with good data"
        )
    return block


@dataclass(frozen=True, slots=True)
class _SetUp:
    """What the subtables say of the one field and the one spectral window in use."""

    freq_hz: Floats
    chan_width_hz: Floats
    stored_corr: tuple[str, ...]
    phase_centre: Direction
    field_name: str
    stations: StationLayout

    @property
    def corr_indices(self) -> range:
        """Indices of the correlations to read: at most two, hence a range."""
        found = [i for i, name in enumerate(self.stored_corr) if name in _PARALLEL_HANDS]
        if "I" in self.stored_corr:
            found = [self.stored_corr.index("I")]
        return range(found[0], found[-1] + 1, max(1, found[-1] - found[0])) if found else range(0)

    @property
    def corr(self) -> tuple[str, ...]:
        return tuple(self.stored_corr[i] for i in self.corr_indices)


@dataclass(frozen=True, slots=True)
class _RowSource:
    """Rows of a table, read in the order wanted.

    Columns come fast in one piece only, so a run of rows is read from its first to its last and
    then put in order; where the rows wanted lie too far apart for that, casacore picks them.
    """

    table: Table
    start: int
    count: int
    order: Integers | slice

    @classmethod
    def of(cls, main: Table, rows: Integers) -> "_RowSource":
        start, count = int(rows.min()), int(np.ptp(rows)) + 1
        if count > 2 * len(rows):
            return cls(main.selectrows(rows), 0, len(rows), slice(None))
        if count == len(rows) and (np.diff(rows) == 1).all():
            return cls(main, start, count, slice(None))
        return cls(main, start, count, rows - start)

    def read(self, column: str) -> NDArray[Any]:
        """Return (row, …) the cells of the column."""
        values: NDArray[Any] = self.table.getcol(column, self.start, self.count)
        return values[self.order]

    def read_cube(self, column: str, chans: range, corrs: range) -> NDArray[Any]:
        """Return (row, chan, corr) a part of the cells of the column."""
        first, last = (chans[0], corrs[0]), (chans[-1], corrs[-1])
        steps = (chans.step, corrs.step)
        values: NDArray[Any] = self.table.getcolslice(
            column, first, last, steps, self.start, self.count
        )
        return values[self.order]

    def has_cube(self, column: str, shape: tuple[int, int]) -> bool:
        """Return whether the column is there and filled."""
        return bool(
            column in self.table.colnames()
            and self.table.iscelldefined(column, self.start)
            and self.table.getcell(column, self.start).shape == shape
        )


def _read_block(source: _RowSource, setup: _SetUp, column: str, chans: range) -> Visibility:
    corrs = setup.corr_indices
    uvw_m, uvw_known = _read_uvw_m(source)
    vis = source.read_cube(column, chans, corrs).astype(np.complex64, copy=False)
    if source.has_cube("WEIGHT_SPECTRUM", (len(setup.freq_hz), len(setup.stored_corr))):
        weight = source.read_cube("WEIGHT_SPECTRUM", chans, corrs)
    else:
        weight = source.read("WEIGHT")[:, np.newaxis, list(corrs)]

    good = ~source.read_cube("FLAG", chans, corrs)
    good &= np.isfinite(vis)
    good &= np.isfinite(weight) & (weight > 0)
    good &= (uvw_known & ~source.read("FLAG_ROW"))[:, np.newaxis, np.newaxis]
    return Visibility(
        uvw_m=uvw_m,
        time_mjd_s=source.read("TIME"),
        antenna1=source.read("ANTENNA1").astype(np.int32, copy=False),
        antenna2=source.read("ANTENNA2").astype(np.int32, copy=False),
        vis=np.where(good, vis.conj(), np.complex64(0)),
        weight=np.where(good, weight, 0).astype(np.float32, copy=False),
        freq_hz=setup.freq_hz[chans.start : chans.stop : chans.step],
        chan_width_hz=setup.chan_width_hz[chans.start : chans.stop : chans.step],
        corr=setup.corr,
        integration_s=float(np.median(source.read("INTERVAL"))),
        phase_centre=setup.phase_centre,
        stations=setup.stations,
        field_name=setup.field_name,
    )


@contextmanager
def _open(path: Path) -> Iterator[Table]:
    """Open a Measurement Set; what casacore cannot read becomes a ``DataError``."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; give the path of a Measurement Set")
    try:
        # Sets are complete before they get their name, so readers need no lock.
        with table(str(path), ack=False, lockoptions="usernoread") as main:
            if not _REQUIRED_SUBTABLES.issubset(main.keywordnames()):
                raise DataError(
                    f"{path}: a casacore table, but no Measurement Set; give the folder of a set"
                )
            yield main
    except RuntimeError as error:
        raise DataError(
            f"{path}: cannot be read as a Measurement Set ({_first_line(error)}); "
            "give another, or copy it again from where it came"
        ) from error


def _subtable(main: Table, name: str) -> Table:
    return table(main.getkeyword(name), ack=False, lockoptions="usernoread")


def _read_setup(main: Table, path: Path) -> _SetUp:
    if main.nrows() == 0:
        raise DataError(f"{path}: has no rows; give a set with data")
    field_id = _the_one(main, path, "FIELD_ID", "fields", "field")
    description_id = _the_one(main, path, "DATA_DESC_ID", "spectral windows", "spw")
    with _subtable(main, "DATA_DESCRIPTION") as descriptions:
        window_id = descriptions.getcell("SPECTRAL_WINDOW_ID", description_id)
        polarization_id = descriptions.getcell("POLARIZATION_ID", description_id)
    with _subtable(main, "SPECTRAL_WINDOW") as windows:
        freq_hz = windows.getcell("CHAN_FREQ", window_id)
        width_hz = np.abs(windows.getcell("CHAN_WIDTH", window_id))
    with _subtable(main, "POLARIZATION") as polarizations:
        codes = polarizations.getcell("CORR_TYPE", polarization_id)
    with _subtable(main, "FIELD") as fields:
        field_name = fields.getcell("NAME", field_id)
        phase_centre = _read_phase_centre(fields, field_id, path)
    setup = _SetUp(
        freq_hz=freq_hz,
        chan_width_hz=width_hz,
        stored_corr=tuple(_CORR_NAMES.get(int(code), f"code {code}") for code in codes),
        phase_centre=phase_centre,
        field_name=field_name,
        stations=_read_stations(main),
    )
    if not setup.corr:
        raise DataError(
            f"{path}: has only the correlations {', '.join(setup.stored_corr)}, and one of I, "
            f"{', '.join(_PARALLEL_HANDS)} is needed; give a set with parallel hands"
        )
    return setup


def _the_one(main: Table, path: Path, column: str, things: str, argument: str) -> int:
    """Return the only value of a column of identifiers."""
    ids = np.unique(main.getcol(column))
    if len(ids) > 1:
        raise DataError(
            f"{path}: has data of {len(ids)} {things}, one is needed; split it first, "
            f"for example in CASA: split(vis='{path}', outputvis='one.ms', {argument}='{ids[0]}')"
        )
    return int(ids[0])


def _read_phase_centre(fields: Table, row: int, path: Path) -> Direction:
    measure = fields.getcolkeywords("PHASE_DIR").get("MEASINFO", {})
    frame = measure.get("Ref", "J2000")
    if "VarRefCol" in measure:
        frame = fields.getcell(measure["VarRefCol"], row)
        if not isinstance(frame, str):
            names = dict(zip(measure["TabRefCodes"], measure["TabRefTypes"], strict=True))
            frame = names.get(frame, f"of code {frame}")
    # FK5 J2000 is turned against ICRS by 0.02 arcsec: far below any beam of the arrays served.
    if frame not in ("ICRS", "J2000"):
        raise DataError(
            f"{path}: the phase centre is in the frame {frame}, ICRS or J2000 is needed; "
            "rotate the set to such a phase centre first (CASA phaseshift, DP3 phaseshifter)"
        )
    polynomial = fields.getcell("PHASE_DIR", row)
    ephemeris = "EPHEMERIS_ID" in fields.colnames() and fields.getcell("EPHEMERIS_ID", row) >= 0
    if ephemeris or polynomial[1:].any():
        raise DataError(
            f"{path}: the phase centre moves with time, a fixed one is needed; "
            "rotate the set to one first (CASA phaseshift, DP3 phaseshifter)"
        )
    return Direction(float(polynomial[0, 0]), float(polynomial[0, 1]))


def _read_stations(main: Table) -> StationLayout:
    with _subtable(main, "ANTENNA") as antennas:
        names = tuple(antennas.getcol("NAME"))
        if len(set(names)) < len(names):
            names = tuple(f"{name}-{number}" for number, name in enumerate(names))
        itrf_m, diameter_m = antennas.getcol("POSITION"), antennas.getcol("DISH_DIAMETER")
    with _subtable(main, "OBSERVATION") as observations:
        array_name = observations.getcell("TELESCOPE_NAME", 0) if observations.nrows() else ""
    return StationLayout(names, itrf_m, diameter_m, array_name or "unknown")


def _data_columns(main: Table) -> tuple[str, ...]:
    return tuple(name for name in main.colnames() if main.coldatatype(name) == "complex")


def _cross_rows(main: Table, path: Path) -> tuple[Floats, Integers]:
    """Return times and numbers of the rows without autocorrelations, by time, then as stored."""
    rows = np.flatnonzero(main.getcol("ANTENNA1") != main.getcol("ANTENNA2"))
    if len(rows) == 0:
        raise DataError(
            f"{path}: has autocorrelations only; give a set with baselines between stations"
        )
    times = main.getcol("TIME")[rows]
    order = np.argsort(times, kind="stable")
    return times[order], rows[order]


def _read_uvw_m(source: _RowSource) -> tuple[Floats, NDArray[np.bool_]]:
    """Return (row, 3) coordinates, and (row,) whether they were ever computed; zero if not."""
    uvw_m: Floats = source.read("UVW")
    known = np.asarray(np.isfinite(uvw_m).all(axis=1) & uvw_m.any(axis=1))
    return np.where(known[:, np.newaxis], uvw_m, 0.0), known


def _digest(*arrays: NDArray[Any]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _require_uvw(path: Path, uvw_m: Floats) -> None:
    if not uvw_m.any():
        raise DataError(
            f"{path}: all UVW are zero, so nothing can be imaged; "
            "have them computed where the set was made, or by CASA's fixvis"
        )


def _select(path: Path, things: str, count: int, selection: slice) -> range:
    """Return the indices of a selection, ascending and never empty."""
    indices = range(count)[selection]
    if len(indices) == 0:
        raise DataError(f"{path}: {selection} selects none of its {count} {things}; select some")
    return indices if indices.step > 0 else indices[::-1]


def _time_range_mjd_s(times_mjd_s: Floats, integration_s: float) -> tuple[float, float]:
    """Return begin and end of the integrations with these centres."""
    half = integration_s / 2
    return float(times_mjd_s.min()) - half, float(times_mjd_s.max()) + half


# ------------------------------------------------------------------------- rows of any set


@dataclass(frozen=True, slots=True)
class SpectralWindow:
    """What a DATA_DESC_ID stands for; ``freq_hz`` and ``chan_width_hz`` are (chan,)."""

    freq_hz: Floats
    chan_width_hz: Floats
    frame: str
    corr: tuple[str, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of one field and one DATA_DESC_ID, sorted by time, then as stored.

    Attributes
    ----------
    field_id: of FIELD; window_id: of SPECTRAL_WINDOW.
    rows: (row,) their numbers in the set; autocorrelations are among them.
    time_mjd_s: (row,).
    """

    field_id: int
    field_name: str
    phase_centre: Direction
    window_id: int
    window: SpectralWindow
    rows: Integers
    time_mjd_s: Floats

    def is_one_of(self, fields: Collection[str], windows: Collection[str]) -> bool:
        """Tell whether field and window are among these numbers and names, none for all."""
        field = not fields or not {str(self.field_id), self.field_name}.isdisjoint(fields)
        names = {str(self.window_id), self.window.name}
        return field and (not windows or not names.isdisjoint(windows))

    def cut(self, max_samples: int) -> Iterator[Integers]:
        """Yield the rows in parts of whole integrations, of up to so many samples if possible."""
        samples_per_row = len(self.window.freq_hz) * len(self.window.corr)
        starts = np.flatnonzero(np.diff(self.time_mjd_s, prepend=-np.inf))
        begin = 0
        for start, end in pairwise(np.append(starts, len(self.rows))):
            if start > begin and (end - begin) * samples_per_row > max_samples:
                yield self.rows[begin:start]
                begin = start
        yield self.rows[begin:]


def shown_groups(groups: Iterable[RowGroup]) -> str:
    """Return what fields and windows there are, for a message."""
    there = {f"{g.field_id} {g.field_name}, window {g.window_id} {g.window.name}" for g in groups}
    return f"there are the fields {'; '.join(sorted(map(str.rstrip, there)))}"


@dataclass(frozen=True, slots=True)
class SetStructure:
    """The groups of rows of a set, and what they share."""

    path: Path
    groups: tuple[RowGroup, ...]
    stations: StationLayout
    columns: tuple[str, ...]
    data_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Rows as they were read, all correlations; conventions and flags are those of a block.

    Attributes
    ----------
    uvw_m: (row, 3); time_mjd_s, antenna1, antenna2: (row,).
    vis: (row, chan, corr) complex64, zero where it is not finite.
    weight: (row, chan, corr) float32, zero where flagged.
    finite: (row, chan, corr) false where the stored values are not.
    """

    uvw_m: Floats
    time_mjd_s: Floats
    antenna1: NDArray[np.int32]
    antenna2: NDArray[np.int32]
    vis: NDArray[np.complex64]
    weight: NDArray[np.float32]
    finite: NDArray[np.bool_]


def describe_structure(path: Path) -> SetStructure:
    """Describe a set of any number of fields and spectral windows without its visibilities.

    Raises
    ------
    DataError: it is no Measurement Set, has no rows, lacks a column, or a phase centre moves or is
        neither ICRS nor J2000.
    """
    with _open(path) as main:
        if main.nrows() == 0:
            raise DataError(f"{path}: has no rows; give a set with data")
        if missing := _NEEDED - set(main.colnames()):
            raise DataError(f"{path}: no column {', '.join(sorted(missing))}; copy it again")
        ids = np.stack([main.getcol("FIELD_ID"), main.getcol("DATA_DESC_ID")], axis=1)
        times = main.getcol("TIME")
        kinds, kind_of_row = np.unique(ids, axis=0, return_inverse=True)
        groups = []
        with _subtable(main, "FIELD") as fields:
            for k, (field_id, description_id) in enumerate(kinds):
                rows = np.flatnonzero(kind_of_row.reshape(-1) == k)
                rows = rows[np.argsort(times[rows], kind="stable")]
                window_id, window = _read_window(main, int(description_id))
                groups.append(
                    RowGroup(
                        int(field_id),
                        fields.getcell("NAME", int(field_id)),
                        _read_phase_centre(fields, int(field_id), path),
                        window_id,
                        window,
                        rows,
                        times[rows],
                    )
                )
        return SetStructure(
            path,
            tuple(groups),
            _read_stations(main),
            tuple(main.colnames()),
            _data_columns(main),
        )


def _read_window(main: Table, description_id: int) -> tuple[int, SpectralWindow]:
    with _subtable(main, "DATA_DESCRIPTION") as descriptions:
        window_id = descriptions.getcell("SPECTRAL_WINDOW_ID", description_id)
        polarization_id = descriptions.getcell("POLARIZATION_ID", description_id)
    with _subtable(main, "POLARIZATION") as polarizations:
        codes = polarizations.getcell("CORR_TYPE", polarization_id)
    with _subtable(main, "SPECTRAL_WINDOW") as windows:
        code = int(windows.getcell("MEAS_FREQ_REF", window_id))
        return int(window_id), SpectralWindow(
            windows.getcell("CHAN_FREQ", window_id),
            np.abs(windows.getcell("CHAN_WIDTH", window_id)),
            _FRAMES.get(code, f"code {code}"),
            tuple(_CORR_NAMES.get(int(code), f"code {code}") for code in codes),
            windows.getcell("NAME", window_id),
        )


def read_rows(
    path: Path, rows: Integers, column: str, channels: tuple[int, int] | None = None
) -> RowBlock:
    """Read rows of one field and spectral window; DATA without UVW keeps its weight.

    Parameters
    ----------
    channels: the first and the one after the last; all by default.

    Raises
    ------
    DataError: they cannot be read.
    """
    with _open(path) as main:
        source = _RowSource.of(main, rows)
        n_chan, n_corr = main.getcell("FLAG", int(rows[0])).shape
        chans, corrs = range(*(channels or (0, n_chan))), range(n_corr)
        stored = source.read_cube(column, chans, corrs)
        if source.has_cube("WEIGHT_SPECTRUM", (n_chan, n_corr)):
            weight = source.read_cube("WEIGHT_SPECTRUM", chans, corrs)
        else:
            weight = source.read("WEIGHT")[:, np.newaxis]
        finite = np.isfinite(stored)
        good = finite & ~source.read_cube("FLAG", chans, corrs)
        good &= np.isfinite(weight) & (weight > 0)
        good &= ~source.read("FLAG_ROW")[:, np.newaxis, np.newaxis]
        return RowBlock(
            uvw_m=_read_uvw_m(source)[0],
            time_mjd_s=source.read("TIME"),
            antenna1=source.read("ANTENNA1").astype(np.int32, copy=False),
            antenna2=source.read("ANTENNA2").astype(np.int32, copy=False),
            vis=np.where(finite, stored, 0).conj().astype(np.complex64, copy=False),
            weight=np.where(good, weight, 0).astype(np.float32, copy=False),
            finite=finite,
        )


def read_cells(path: Path, rows: Integers, column: str) -> NDArray[Any]:
    """Return (row, …) a column that is the same for all channels: TIME, SCAN_NUMBER, UVW and such.

    Raises
    ------
    DataError: they cannot be read.
    """
    with _open(path) as main:
        return _RowSource.of(main, rows).read(column)


def write_rows(
    path: Path,
    rows: Integers,
    column: str,
    vis: NDArray[np.complexfloating],
    *,
    flag_blank: bool = False,
) -> None:
    """Write visibilities (row, chan, corr) of a block into rows of a column.

    Other processes may write other rows at the same time.

    Parameters
    ----------
    flag_blank: flag the samples that are not finite.

    Raises
    ------
    ProductError: they cannot be written, or another process kept its lock for ten minutes.
    """
    order = np.argsort(rows)
    runs = np.split(order, np.flatnonzero(np.diff(rows[order]) != 1) + 1)
    with _writable(path) as main:
        for run in runs:
            start, count, stored = int(rows[run[0]]), len(run), np.conj(vis[run])
            main.putcol(column, stored.astype(np.complex64, copy=False), start, count)
            blank = ~np.isfinite(stored)
            if flag_blank and blank.any():
                main.putcol("FLAG", main.getcol("FLAG", start, count) | blank, start, count)


@contextmanager
def new_column(path: Path, name: str, like: str) -> Iterator[str]:
    """Yield the name to write under; the column takes its own name if the block succeeds.

    One of that name is replaced in that moment. If the block fails nothing is left.

    Raises
    ------
    ProductError: the set cannot be changed.
    """
    partial = f"{name}_PARTIAL"
    remove_columns(path, [partial])  # of a run that was killed
    try:
        with _writable(path) as main:
            manager = main.getdminfo(like)
            manager["NAME"] = f"Tiled{name}-{time.time_ns():x}"
            main.addcols(makecoldesc(partial, main.getcoldesc(like)), manager)
        yield partial
        with _writable(path) as main:
            if name in main.colnames():
                main.removecols(name)
            main.renamecol(partial, name)
    except BaseException:
        with suppress(ProductError):
            remove_columns(path, [partial])
        raise


@contextmanager
def copied_set(path: Path, copy: Path) -> Iterator[Path]:
    """Yield a copy of a set to change; it takes its name if the block succeeds.

    A Measurement Set of that name is replaced in that moment.

    Raises
    ------
    ProductError: it cannot be written; nothing half-written stays.
    """
    partial = copy.with_name(f"{copy.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(path, partial)  # with table.lock: numbers of rows may stand there alone
        yield partial
        _move_into_place(partial, copy)
    except OSError as error:
        raise ProductError(
            f"{copy}: cannot be written ({_first_line(error)}); "
            "look whether the folder above it exists, may be written and has space"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remove_columns(path: Path, names: Collection[str]) -> None:
    """Remove those of these columns that a set has."""
    with _writable(path) as main:
        for name in set(names) & set(main.colnames()):
            main.removecols(name)


def write_column_record(path: Path, column: str, record: Mapping[str, Any]) -> None:
    """Keep with a column how it was made: its keyword SUBTRACTION."""
    with _writable(path) as main:
        main.putcolkeyword(column, "SUBTRACTION", dict(record))


@contextmanager
def _writable(path: Path) -> Iterator[Table]:
    """Open and lock a set to change it; what casacore cannot do becomes a ``ProductError``."""
    try:
        with table(str(path), readonly=False, ack=False, lockoptions="user") as main:
            main.lock(write=True, nattempts=_LOCK_ATTEMPTS)
            yield main
            main.unlock()
    except RuntimeError as error:
        raise ProductError(
            f"{path}: cannot be written ({_first_line(error)}); look whether it may be, whether "
            "there is space and whether another program holds it open"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
