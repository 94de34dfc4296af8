"""Gain tables as FITS files that two lines of astropy read.

The station gains g of V_observed = g_antenna1 · conj(g_antenna2) · V_true stand in images of
(time, station, chan, corr) as numpy counts axes, their coordinates in tables of one row a step:

| extension | holds |
|---|---|
| GAIN_REAL, GAIN_IMAG | images, double precision |
| WEIGHT | image, double precision; zero where no solution was found |
| TIME | TIME, INTERVAL [s]: centres, modified Julian date in seconds, UTC, and lengths |
| STATION | NAME |
| FREQ | FREQ [Hz]: centres |
| CORR | NAME: XX, YY …; I where one gain holds for all |

    hdus = astropy.io.fits.open("gains.fits")
    gain = hdus["GAIN_REAL"].data + 1j * hdus["GAIN_IMAG"].data
"""

from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ProductError
from batch_imaging.io.fits_image import publishing
from batch_imaging.model.gains import GainTable

AXES = ("TIME", "STATION", "CHAN", "CORR")


def write_gain_table(path: Path, table: GainTable) -> None:
    """Write a gain table; equal tables give equal bytes.

    Raises
    ------
    ProductError: the axes of the table disagree, or the file could not be written.
    """
    expected = _shape(table)
    for name, values in (("gain", table.gain), ("weight", table.weight)):
        if values.shape != expected:
            raise ProductError(f"{path}: {name} has shape {values.shape}, its axes say {expected}")
    primary = fits.PrimaryHDU()
    primary.header["CONTENT"] = "STATION GAINS"
    primary.header["TIMESYS"] = "UTC"
    primary.header["HISTORY"] = "V_observed = gain(antenna1) * conj(gain(antenna2)) * V_true"
    hdus = fits.HDUList(
        [
            primary,
            _image("GAIN_REAL", table.gain.real),
            _image("GAIN_IMAG", table.gain.imag),
            _image("WEIGHT", table.weight),
            _rows(
                "TIME",
                fits.Column("TIME", "1D", "s", array=table.time_mjd_s),
                fits.Column("INTERVAL", "1D", "s", array=table.interval_s),
            ),
            _rows("STATION", _names(table.station_names)),
            _rows("FREQ", fits.Column("FREQ", "1D", "Hz", array=table.freq_hz)),
            _rows("CORR", _names(table.corr)),
        ]
    )
    with publishing(path) as partial:
        hdus.writeto(partial, overwrite=True)


def read_gain_table(path: Path) -> GainTable:
    """Read a gain table.

    Raises
    ------
    DataError: the file is missing, damaged, or no gain table.
    """
    try:
        with fits.open(path, memmap=False) as hdus:
            table = GainTable(
                gain=_doubles(hdus["GAIN_REAL"].data) + 1j * _doubles(hdus["GAIN_IMAG"].data),
                weight=_doubles(hdus["WEIGHT"].data),
                time_mjd_s=_doubles(hdus["TIME"].data["TIME"]),
                interval_s=_doubles(hdus["TIME"].data["INTERVAL"]),
                freq_hz=_doubles(hdus["FREQ"].data["FREQ"]),
                corr=tuple(hdus["CORR"].data["NAME"].tolist()),
                station_names=tuple(hdus["STATION"].data["NAME"].tolist()),
            )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a gain table: {error}") from error
    if not table.gain.shape == table.weight.shape == _shape(table):
        raise DataError(
            f"{path}: gains of shape {table.gain.shape} and weights of shape {table.weight.shape}, "
            f"but its tables describe {_shape(table)}: write it again with write_gain_table"
        )
    return table


def _shape(table: GainTable) -> tuple[int, int, int, int]:
    return (
        len(table.time_mjd_s),
        len(table.station_names),
        len(table.freq_hz),
        len(table.corr),
    )


def _image(name: str, values: NDArray[np.float64]) -> fits.ImageHDU:
    hdu = fits.ImageHDU(np.ascontiguousarray(values, dtype=np.float64), name=name)
    for number, axis in enumerate(reversed(AXES), 1):  # FITS counts the fastest axis first
        hdu.header[f"CTYPE{number}"] = axis
    return hdu


def _rows(name: str, *columns: fits.Column) -> fits.BinTableHDU:
    return fits.BinTableHDU.from_columns(columns, name=name)


def _names(names: tuple[str, ...]) -> fits.Column:
    return fits.Column("NAME", f"{max(map(len, names), default=1)}A", array=names)


def _doubles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)
