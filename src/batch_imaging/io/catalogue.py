"""Catalogues of sources, and the table of truth that is written beside simulated data.

Tables are VOTable, FITS, CSV, ECSV or plain text. Columns are known by name, in any case; a unit
may stand with the column or at the end of its name (`flux_mJy`). GLEAM's names are known, as its
authors and as VizieR have them. YAML files are source lists of mwa_hyperdrive.
"""

import csv
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers.expat import ExpatError

import numpy as np
import yaml
from astropy import units
from astropy.coordinates import Angle
from astropy.table import Table
from astropy.utils.exceptions import AstropyWarning
from numpy.typing import NDArray

from batch_imaging.errors import DataError
from batch_imaging.model.population import SPECTRAL_INDEX_MEAN, position_name
from batch_imaging.model.sky import PowerLaw, SkyComponent, SkyModel, Spectrum, TabulatedSpectrum

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Quantity:
    """The names a column may have, most telling first, its unit if it has none, the unit wanted."""

    names: tuple[str, ...]
    default_unit: units.UnitBase
    unit: units.UnitBase


def _angle(names: str, default_unit: units.UnitBase) -> _Quantity:
    return _Quantity(tuple(names.split()), default_unit, units.rad)


GLEAM_WIDE_FREQ_HZ = 200e6  # the wide band is 170–231 MHz
_GLEAM_WIDE = ("fintwide", "int_flux_wide")
_GLEAM_BAND = re.compile(r"(?:fint|int_flux_)(\d{3})")  # MHz

_NAME = ("name", "source_name", "source", "gleam", "id")
_RA = _angle("ra raj2000 ra_j2000 ra_icrs _raj2000", units.deg)
_DEC = _angle("dec dej2000 decj2000 dec_j2000 de_icrs dec_icrs _dej2000", units.deg)
_FLUX = _Quantity(
    ("flux", "flux_density", "int_flux", "total_flux", "stokes_i", "s", "i", *_GLEAM_WIDE),
    units.Jy,
    units.Jy,
)
_FREQ = _Quantity(("ref_freq", "reference_frequency", "frequency", "freq"), units.Hz, units.Hz)
_NUMBER = units.dimensionless_unscaled
_INDEX = _Quantity(("spectral_index", "alpha", "spec_index"), _NUMBER, _NUMBER)
_CURVATURE = _Quantity(("curvature",), _NUMBER, _NUMBER)
_SOURCE_SHAPE = (
    _angle("bmaj major maj major_axis", units.arcsec),
    _angle("bmin minor min minor_axis", units.arcsec),
    _angle("bpa pa position_angle", units.deg),
)
_FITTED_SHAPE = (  # as seen, convolved with the psf
    _angle("awide a_wide a", units.arcsec),
    _angle("bwide b_wide b", units.arcsec),
    _angle("pawide pa_wide pa", units.deg),
)
_PSF_SHAPE = (
    _angle("psfawide psf_a_wide psf_a", units.arcsec),
    _angle("psfbwide psf_b_wide psf_b", units.arcsec),
    _angle("psfpawide psf_pa_wide psf_pa", units.deg),
)

_UNIT_SUFFIX = re.compile(r"(.+)_(deg|rad|arcmin|arcsec|hz|khz|mhz|ghz|jy|mjy)")
_UNIT_OF_SUFFIX = {
    unit.to_string().lower(): unit
    for unit in (
        *(units.deg, units.rad, units.arcmin, units.arcsec),
        *(units.Hz, units.kHz, units.MHz, units.GHz, units.Jy, units.mJy),
    )
}
_TABLE_FORMATS = {
    **dict.fromkeys((".vot", ".votable", ".xml"), "votable"),
    **dict.fromkeys((".fits", ".fit"), "fits"),
    ".csv": "ascii.csv",
    ".ecsv": "ascii.ecsv",
}
_TRUTH_COLUMNS = (
    *("name", "ra_deg", "dec_deg", "flux_jy", "ref_freq_hz", "spectral_index", "curvature"),
    *("bmaj_arcsec", "bmin_arcsec", "bpa_deg"),
)


def read_catalogue(path: Path, *, flux_limit_jy: float = 0.0, ref_freq_hz: float) -> SkyModel:
    """Read a table or a YAML source list of components.

    Rows of tables without position or flux density are left out and counted in a warning. Where
    a table has no spectral index it is −0.8. Sizes that GLEAM fitted are deconvolved from its psf;
    where the psf is not given, and where a source is no wider, it is a point.

    Parameters
    ----------
    path: the file; its suffix tells the format.
    flux_limit_jy: fainter sources are left out; the components of one source count together.
    ref_freq_hz: where the limit applies, and the frequency of fluxes in tables that name none.

    Raises
    ------
    DataError: the file cannot be read, or columns are missing; it says which, and what is there.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        sources = _read_source_list(path)
    else:
        sources = [(component,) for component in _read_table(path, ref_freq_hz)]
    return SkyModel(
        tuple(
            component
            for components in sources
            if sum(float(c.spectrum.flux_jy(ref_freq_hz)) for c in components) >= flux_limit_jy
            for component in components
        )
    )


def write_catalogue(path: Path, sky: SkyModel, freq_hz: float) -> None:
    """Write components as CSV, with flux density and spectral index at one frequency.

    Power laws, curved or not, are read back as the same functions; of other spectra the value
    and the slope at ``freq_hz`` are kept.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(_TRUTH_COLUMNS)
        for component in sky.components:
            shape = component.bmaj_rad, component.bmin_rad
            row = (
                *np.rad2deg([component.ra_rad, component.dec_rad]),
                float(component.spectrum.flux_jy(freq_hz)),
                freq_hz,
                *_slope_and_curvature(component.spectrum, freq_hz),
                *(np.rad2deg(shape) * 3600),
                np.rad2deg(component.bpa_rad),
            )
            writer.writerow([component.name, *(repr(float(value)) for value in row)])
    partial.replace(path)


def _slope_and_curvature(spectrum: Spectrum, freq_hz: float) -> tuple[float, float]:
    """Return d ln S / d ln ν at a frequency, and the curvature of a power law."""
    if isinstance(spectrum, PowerLaw):
        log_x = np.log(freq_hz / spectrum.ref_freq_hz)
        return spectrum.spectral_index + 2 * spectrum.curvature * log_x, spectrum.curvature
    step = 1e-4
    below, above = spectrum.flux_jy(freq_hz * np.exp([-step, step]))
    return (float(np.log(above / below)) / (2 * step) if above * below > 0 else 0.0), 0.0


# Tables


class _Columns:
    """The columns of a table, found by what they mean."""

    def __init__(self, path: Path, table: Table) -> None:
        self._path = path
        self._table = table
        # A name in full goes before the same name with a unit cut off.
        self._known: dict[str, tuple[str, units.UnitBase | None]] = {}
        for name in table.colnames:
            if match := _UNIT_SUFFIX.fullmatch(name.lower()):
                self._known[match[1]] = name, _UNIT_OF_SUFFIX[match[2]]
        self._known |= {name.lower(): (name, None) for name in table.colnames}

    def find(self, names: Iterable[str]) -> str | None:
        """Return the first of some names that the table has."""
        return next((name for name in names if name in self._known), None)

    def gleam_bands(self) -> dict[float, str]:
        """Return the names of GLEAM's flux densities by their frequency, Hz."""
        matches = (_GLEAM_BAND.fullmatch(name) for name in self._known)
        return {float(match[1]) * 1e6: match[0] for match in matches if match}

    def read(self, quantity: _Quantity) -> Floats | None:
        """Return the values (row,) of a quantity in its unit, NaN where masked; None if absent."""
        found = self.find(quantity.names)
        return None if found is None else self.read_column(found, quantity)

    def require(self, quantity: _Quantity, what: str) -> Floats:
        values = self.read(quantity)
        if values is None:
            raise self.missing(what, quantity.names)
        return values

    def missing(self, what: str, looked_for: Iterable[str]) -> DataError:
        return DataError(
            f"{self._path}: no column for {what}: looked for {', '.join(looked_for)}; "
            f"the table has {', '.join(self._table.colnames)}"
        )

    def read_column(self, known_name: str, quantity: _Quantity) -> Floats:
        name, unit_in_name = self._known[known_name]
        column = self._table[name]
        try:
            if column.dtype.kind in "US" and quantity in (_RA, _DEC) and len(column):
                unit = units.hourangle if quantity is _RA else units.deg
                return np.asarray(Angle(np.asarray(column), unit=unit).to_value(units.rad))
            unit = column.unit or unit_in_name or quantity.default_unit
            values = np.ma.filled(np.ma.asarray(column).astype(float), np.nan)
            return np.asarray(values * unit.to(quantity.unit))
        except (ValueError, TypeError) as error:  # units.UnitsError is a ValueError
            wanted = str(quantity.unit) or "plain numbers"
            raise DataError(
                f"{self._path}, column {name}: cannot be read in {wanted}: {error}"
            ) from error

    def shape(self, quantities: tuple[_Quantity, _Quantity, _Quantity]) -> Floats | None:
        """Return major axis, minor axis and position angle, (3, row) radians, if all are there."""
        values = [self.read(quantity) for quantity in quantities]
        present = [value for value in values if value is not None]
        return np.array(present) if len(present) == 3 else None

    def names(self) -> list[str] | None:
        found = self.find(_NAME)
        if found is None:
            return None
        return [str(name) for name in self._table[self._known[found][0]].tolist()]


def _read_table(path: Path, ref_freq_hz: float) -> list[SkyComponent]:
    columns = _Columns(path, _open_table(path))
    ra_rad = columns.require(_RA, "right ascension")
    dec_rad = columns.require(_DEC, "declination")
    flux_jy, freq_hz = _fluxes(columns, ref_freq_hz)
    index = columns.read(_INDEX)
    curvature = columns.read(_CURVATURE)
    shape = _shapes(columns, len(ra_rad))
    names = columns.names()

    if (outside := np.abs(dec_rad) > np.pi / 2 + 1e-9).any():
        row = int(np.argmax(outside))
        raise DataError(
            f"{path}, row {row + 1}: a declination of {np.rad2deg(dec_rad[row]):g}° is beyond the "
            "pole; is the unit of the column right?"
        )
    usable = np.isfinite(ra_rad) & np.isfinite(dec_rad) & np.isfinite(flux_jy)
    usable &= np.isfinite(freq_hz) & (freq_hz > 0)
    if n_left_out := int((~usable).sum()):
        warnings.warn(
            f"{path}: {n_left_out} of {len(usable)} rows have no position or flux density and "
            "are left out",
            stacklevel=3,
        )
    return [
        SkyComponent(
            name=names[row] if names else position_name(ra_rad[row], dec_rad[row]),
            ra_rad=float(ra_rad[row] % (2 * np.pi)),
            dec_rad=float(dec_rad[row]),
            spectrum=PowerLaw(
                float(flux_jy[row]),
                float(freq_hz[row]),
                _value_or(SPECTRAL_INDEX_MEAN, index, row),
                _value_or(0.0, curvature, row),
            ),
            bmaj_rad=float(shape[0, row]),
            bmin_rad=float(shape[1, row]),
            bpa_rad=float(shape[2, row]),
        )
        for row in np.flatnonzero(usable)
    ]


def _open_table(path: Path) -> Table:
    name = path.name.lower().removesuffix(".gz")
    table_format = _TABLE_FORMATS.get(Path(name).suffix, "ascii")
    try:
        with warnings.catch_warnings():
            # Tables that break their standard in small ways are common; what matters here is
            # checked column by column.
            warnings.simplefilter("ignore", AstropyWarning)
            remarks = {"comment": "#"} if table_format == "ascii.csv" else {}
            return Table.read(path, format=table_format, **remarks)
    except (OSError, ValueError, TypeError, LookupError, ExpatError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(f"{path}: cannot be read as a table ({table_format}): {reason}") from error


def _fluxes(columns: _Columns, ref_freq_hz: float) -> tuple[Floats, Floats]:
    """Return flux densities (row,) and their frequencies (row,), Jy and Hz."""
    found = columns.find(_FLUX.names)
    default_freq_hz = GLEAM_WIDE_FREQ_HZ if found in _GLEAM_WIDE else ref_freq_hz
    if found is None:
        bands = columns.gleam_bands()
        if not bands:
            raise columns.missing("flux density", (*_FLUX.names, "Fint151 and the like"))
        default_freq_hz = min(bands, key=lambda hz: abs(np.log(hz / ref_freq_hz)))
        found = bands[default_freq_hz]
    flux_jy = columns.read_column(found, _FLUX)
    freq_hz = columns.read(_FREQ)
    return flux_jy, np.full(len(flux_jy), default_freq_hz) if freq_hz is None else freq_hz


def _shapes(columns: _Columns, n_rows: int) -> Floats:
    """Return full widths and position angles (3, row) of the sources, zero for points."""
    shape = columns.shape(_SOURCE_SHAPE)
    if shape is None:
        fitted, psf = columns.shape(_FITTED_SHAPE), columns.shape(_PSF_SHAPE)
        shape = None if fitted is None or psf is None else _deconvolve(fitted, psf)
    if shape is None:
        return np.zeros((3, n_rows))
    is_gaussian = np.isfinite(shape).all(axis=0) & (shape[0] > 0)
    return np.where(is_gaussian, shape, 0.0)


def _deconvolve(seen: Floats, psf: Floats) -> Floats:
    """Return the Gaussians that convolved with ``psf`` look as ``seen``, each (3, row), radians."""

    def moments(shape: Floats) -> Floats:
        major2, minor2, twice_pa = shape[0] ** 2, shape[1] ** 2, 2 * shape[2]
        difference = major2 - minor2
        return np.array(
            [major2 + minor2, difference * np.cos(twice_pa), difference * np.sin(twice_pa)]
        )

    total, cosine, sine = moments(seen) - moments(psf)  # second moments of a convolution add
    difference = np.hypot(cosine, sine)
    is_wider = total > difference
    major, minor = np.sqrt(np.where(is_wider, [total + difference, total - difference], 0.0) / 2)
    return np.array([major, minor, np.where(is_wider, np.arctan2(sine, cosine) / 2, 0.0)])


def _value_or(default: float, values: Floats | None, row: np.intp) -> float:
    return default if values is None or not np.isfinite(values[row]) else float(values[row])


# YAML source lists of mwa_hyperdrive


def _read_source_list(path: Path) -> list[tuple[SkyComponent, ...]]:
    """Return the components of each source."""
    loader: Callable[..., Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # type: ignore[arg-type]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: cannot be read as YAML: {error}") from error
    if not isinstance(document, dict) or not all(isinstance(v, list) for v in document.values()):
        raise DataError(f"{path}: is no source list: give a list of components under each name")
    return [
        tuple(
            _parse_component(
                f"{path}, source {name}, component {number}",
                str(name) if len(entries) == 1 else f"{name}_{number}",
                entry,
            )
            for number, entry in enumerate(entries, start=1)
        )
        for name, entries in document.items()
    ]


def _parse_component(where: str, name: str, entry: Any) -> SkyComponent:
    try:
        ra_deg, dec_deg = float(entry["ra"]), float(entry["dec"])
        bmaj_arcsec, bmin_arcsec, bpa_deg = _parse_shape(entry["comp_type"])
        spectrum = _parse_spectrum(entry["flux_type"])
    except KeyError as error:
        raise DataError(f"{where}: {error.args[0]} is missing") from error
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: {error}") from error
    return SkyComponent(
        name,
        float(np.deg2rad(ra_deg)),
        float(np.deg2rad(dec_deg)),
        spectrum,
        float(np.deg2rad(bmaj_arcsec / 3600)),
        float(np.deg2rad(bmin_arcsec / 3600)),
        float(np.deg2rad(bpa_deg)),
    )


def _parse_shape(comp_type: Any) -> tuple[float, float, float]:
    match comp_type:
        case "point":
            return 0.0, 0.0, 0.0
        case {"gaussian": {"maj": major, "min": minor, "pa": angle}}:
            return float(major), float(minor), float(angle)
    raise ValueError(
        f"comp_type {_first_key(comp_type)} cannot be used: give point or gaussian "
        "{maj, min (arcsec), pa (degrees)}"
    )


def _parse_spectrum(flux_type: Any) -> Spectrum:
    match flux_type:
        case {"list": [{"freq": freq, "i": flux}]}:
            # What mwa_hyperdrive takes where the list gives no slope.
            return PowerLaw(float(flux), float(freq), SPECTRAL_INDEX_MEAN)
        case {"list": [_, _, *_] as points}:
            pairs = sorted((float(point["freq"]), float(point["i"])) for point in points)
            freq_hz, fluxes_jy = zip(*pairs, strict=True)
            if freq_hz[0] <= 0 or len(set(freq_hz)) < len(freq_hz):
                raise ValueError(f"frequencies {freq_hz} are not positive and different")
            return TabulatedSpectrum(freq_hz, fluxes_jy)
        case {"power_law": {"si": index, "fd": {"freq": freq, "i": flux}}}:
            return PowerLaw(float(flux), float(freq), float(index))
        case {"curved_power_law": {"si": index, "q": curve, "fd": {"freq": freq, "i": flux}}}:
            return PowerLaw(float(flux), float(freq), float(index), float(curve))
    raise ValueError(
        f"flux_type {_first_key(flux_type)} cannot be used: give list [{{freq, i}}, …], "
        "power_law {si, fd: {freq, i}} or curved_power_law {si, q, fd: {freq, i}}"
    )


def _first_key(value: Any) -> object:
    return next(iter(value), value) if isinstance(value, dict) else value
