"""Lists of components as WSClean's ``-save-source-list`` writes them.

A line `Format = Name, Type, …` names the columns, with defaults as in `I='1.0'`; then a line for
each component: positions are sexagesimal (declination with dots), axes are full widths in
arcseconds, orientation is in degrees east of north. Spectral terms follow the flux density, of an
ordinary polynomial in ν/ν₀ − 1 or, where LogarithmicSI is true, of a logarithmic one.
"""

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from batch_imaging.errors import DataError, ProductError
from batch_imaging.model.sky import PolynomialSpectrum, PowerLaw, SkyComponent, SkyModel

Value = TypeVar("Value")

_COLUMNS = (
    *("Name", "Type", "Ra", "Dec", "I", "SpectralIndex", "LogarithmicSI"),
    *("ReferenceFrequency", "MajorAxis", "MinorAxis", "Orientation"),
)
_REQUIRED = ("type", "ra", "dec", "i")
_COMMA = re.compile(r",(?![^\[]*\])")
_HEADER = re.compile(r"\s*#?\s*\(?\s*format\s*=\s*(.*)", re.IGNORECASE)
_RA = re.compile(r"([-+]?)(\d+)[:h](\d+)[:m](\d+(?:\.\d*)?)s?")
_DEC = re.compile(r"([-+]?)(\d+)[:.d](\d+)[:.m](\d+(?:\.\d*)?)s?")


def is_source_list(path: Path) -> bool:
    """Return whether the file begins like a list of WSClean."""
    try:
        with path.open("rb") as stream:
            start = stream.read(4096).decode("ascii", errors="replace")
    except OSError:
        return False
    return any(_HEADER.fullmatch(line) for line in start.splitlines())


def read_source_list(path: Path) -> SkyModel:
    """Read a list of points and Gaussians.

    Raises
    ------
    DataError: it cannot be read, or a line is wrong; file and line stand in the message.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a source list: {error}") from error
    components = tuple(_components(path, lines))
    if not components:
        raise DataError(f"{path}: has no components; give a list that WSClean saved with some")
    return SkyModel(components)


def _components(path: Path, lines: list[str]) -> Iterator[SkyComponent]:
    header: dict[str, str] | None = None
    for number, line in enumerate(lines, start=1):
        if found := _HEADER.fullmatch(line):
            header = _parse_header(found[1])
            if missing := [name for name in _REQUIRED if name not in header]:
                raise DataError(
                    f"{path}, line {number}: the format lacks {', '.join(missing)}; "
                    f"a source list has the columns {', '.join(_COLUMNS)}"
                )
        elif line.strip() and not line.lstrip().startswith("#"):
            if header is None:
                raise DataError(
                    f"{path}, line {number}: a component before the line “Format = …”; "
                    "give a list written by WSClean's -save-source-list"
                )
            cells = [cell.strip() for cell in _COMMA.split(line)]
            if len(cells) > len(header):
                raise DataError(
                    f"{path}, line {number}: {len(cells)} values for {len(header)} columns"
                )
            given = dict(zip(header, cells, strict=False))
            row = {name: given.get(name) or default for name, default in header.items()}
            try:
                yield _parse_component(row, f"line {number}")
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from error


def _parse_header(text: str) -> dict[str, str]:
    """Return the columns, in lower case, and their defaults."""
    columns = {}
    for part in _COMMA.split(text):
        name, _, default = part.partition("=")
        columns[name.strip().lower()] = default.strip().strip("'\"")
    return columns


def _parse_component(row: dict[str, str], nameless: str) -> SkyComponent:
    kind = row["type"].upper()
    if kind not in ("POINT", "GAUSSIAN"):
        raise ValueError(f"type {row['type']!r} is neither POINT nor GAUSSIAN")
    axes = (0.0, 0.0, 0.0)
    if kind == "GAUSSIAN":
        axes = (
            _cell(row, "majoraxis", float) * math.pi / 648_000,
            _cell(row, "minoraxis", float) * math.pi / 648_000,
            math.radians(_cell(row, "orientation", float, "0")),
        )
        if not 0 <= axes[1] <= axes[0]:
            raise ValueError("MajorAxis and MinorAxis must be 0 ≤ minor ≤ major")
    terms = _cell(row, "spectralindex", _parse_terms, "[]")
    needed = "1" if not terms else ""  # without terms the flux is the same everywhere
    return SkyComponent(
        row.get("name") or nameless,
        _cell(row, "ra", _parse_ra),
        _cell(row, "dec", _parse_dec),
        PolynomialSpectrum(
            _cell(row, "i", float),
            _cell(row, "referencefrequency", float, needed),
            terms,
            _cell(row, "logarithmicsi", _parse_bool, "true"),
        ),
        *axes,
    )


def _cell(
    row: dict[str, str], name: str, parse: Callable[[str], Value], default: str = ""
) -> Value:
    text = row.get(name) or default
    try:
        value = parse(text)
    except ValueError as error:
        raise ValueError(f"{name} = {text!r}: {error}") from error
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} = {text!r} is not finite")
    return value


def _parse_terms(text: str) -> tuple[float, ...]:
    return tuple(float(term) for term in text.strip("[]").split(",") if term.strip())


def _parse_bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("is neither true nor false")
    return text.lower() == "true"


def _parse_ra(text: str) -> float:
    return _sexagesimal(_RA, text, "hh:mm:ss.s") * 15 % (2 * math.pi)


def _parse_dec(text: str) -> float:
    return _sexagesimal(_DEC, text, "dd.mm.ss.s")


def _sexagesimal(pattern: re.Pattern[str], text: str, form: str) -> float:
    found = pattern.fullmatch(text)
    if found is None or float(found[3]) >= 60 or float(found[4]) >= 60:
        raise ValueError(f"has not the form {form}")
    value = math.radians(int(found[2]) + int(found[3]) / 60 + float(found[4]) / 3600)
    return -value if found[1] == "-" else value


def write_source_list(path: Path, sky: SkyModel) -> None:
    """Write components; power laws and polynomials are read back as the same functions.

    Raises
    ------
    ProductError: a spectrum has no such form, or the file cannot be written.
    """
    ref_freq_hz = _spectrum(path, sky.components[0]).ref_freq_hz if sky.components else 1.0
    columns = ", ".join(_COLUMNS).replace("Frequency", f"Frequency='{ref_freq_hz!r}'")
    lines = [f"Format = {columns}"]
    for component in sky.components:
        spectrum = _spectrum(path, component)
        cells = [
            component.name.replace(",", " "),
            "GAUSSIAN" if component.bmaj_rad > 0 else "POINT",
            _hms(component.ra_rad),
            _dms(component.dec_rad),
            repr(float(spectrum.flux_ref_jy)),
            "[" + ",".join(repr(float(term)) for term in spectrum.terms) + "]",
            str(spectrum.logarithmic).lower(),
            repr(float(spectrum.ref_freq_hz)),
        ]
        if component.bmaj_rad > 0:
            widths = component.bmaj_rad, component.bmin_rad
            cells += [repr(float(width * 648_000 / np.pi)) for width in widths]
            cells.append(repr(float(np.rad2deg(component.bpa_rad))))
        else:
            cells += ["", "", ""]
        lines.append(",".join(cells))
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise ProductError(
            f"{path}: cannot be written ({error}); look at the folder above it and its free space"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _spectrum(path: Path, component: SkyComponent) -> PolynomialSpectrum:
    match component.spectrum:
        case PolynomialSpectrum():
            return component.spectrum
        case PowerLaw(flux_jy, ref_freq_hz, index, curvature):
            terms = (index, curvature * math.log(10)) if curvature else (index,)
            return PolynomialSpectrum(flux_jy, ref_freq_hz, terms, logarithmic=True)
    raise ProductError(
        f"{path}: the spectrum of {component.name} ({type(component.spectrum).__name__}) has no "
        "form in a source list; write a catalogue instead"
    )


def _hms(angle_rad: float) -> str:
    hours, minutes, seconds = _split(math.degrees(angle_rad) % 360 / 15)
    return f"{hours % 24:02d}:{minutes:02d}:{seconds:013.10f}"


def _dms(angle_rad: float) -> str:
    degrees, minutes, seconds = _split(abs(math.degrees(angle_rad)))
    return f"{'-' if angle_rad < 0 else ''}{degrees:02d}.{minutes:02d}.{seconds:013.10f}"


def _split(value: float) -> tuple[int, int, float]:
    """Return whole units, minutes and seconds, rounded so that no 60 is shown."""
    ticks = round(value * 3600 * 10**10)
    minutes, seconds = divmod(ticks, 60 * 10**10)
    return *divmod(minutes, 60), seconds / 10**10
