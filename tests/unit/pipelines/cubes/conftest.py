"""Cubes on disk, and ways to open them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from batch_imaging.execution.progress import Progress
from batch_imaging.pipelines.cubes.opening import Cube, open_cube
from batch_imaging.pipelines.cubes.schedule import Schedule

REST_HZ = 1.42e9
STEP_HZ = -50e3


@pytest.fixture
def schedule() -> Callable[..., Schedule]:
    def make(**settings) -> Schedule:
        return Schedule(progress=Progress(show_bar=False), **settings)

    return make


@pytest.fixture
def write_fits(tmp_path) -> Callable[..., Path]:
    """A function that writes a FITS cube of pixels (chan, row, column) and beams in arcsec."""

    def write(pixels, beams=None, name="cube.fits", **cards) -> Path:
        header = fits.Header()
        axes = (
            ("RA---SIN", 40.0, -1 / 360, "deg"),
            ("DEC--SIN", -30.0, 1 / 360, "deg"),
            ("FREQ", REST_HZ, STEP_HZ, "Hz"),
        )
        for i, (ctype, value, step, unit) in enumerate(axes, 1):
            header.update({f"CTYPE{i}": ctype, f"CRVAL{i}": value, f"CDELT{i}": step})
            header.update({f"CUNIT{i}": unit, f"CRPIX{i}": 1.0})
        header.update(BUNIT="Jy/beam", RESTFRQ=REST_HZ, SPECSYS="TOPOCENT")
        header.update({key.replace("_", "-"): value for key, value in cards.items()})
        hdus = fits.HDUList([fits.PrimaryHDU(np.asarray(pixels), header)])
        if beams is not None:
            columns = zip(
                ("BMAJ", "BMIN", "BPA"), ("arcsec", "arcsec", "deg"), beams.T, strict=True
            )
            hdus.append(
                fits.BinTableHDU.from_columns(
                    [fits.Column(key, "1E", unit, array=values) for key, unit, values in columns],
                    name="BEAMS",
                )
            )
        path = tmp_path / name
        hdus.writeto(path)
        return path

    return write


@pytest.fixture
def opened(write_fits, schedule) -> Callable[..., Cube]:
    """A function that opens a cube of pixels, with settings of the schedule."""

    def make(pixels, beams=None, along="any", chunk=None, **cards) -> Cube:
        path = write_fits(
            pixels, beams, f"{np.random.default_rng().integers(1 << 60)}.fits", **cards
        )
        return open_cube(path, schedule(chunk=chunk), along)

    return make


@pytest.fixture
def noise() -> np.ndarray:
    """Noise (chan, row, column) with blank pixels and a blank channel."""
    pixels = np.random.default_rng(3).normal(0.5, 2.0, (7, 30, 40)).astype(np.float32)
    pixels[2] = np.nan
    pixels[:, :3, 5:9] = np.nan
    return pixels
