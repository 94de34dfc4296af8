"""The table CHANNELS of our cubes: true frequencies, outcomes and noise of channels.

It goes with a cube that is opened, and is cut and written with it.
"""

from pathlib import Path
from typing import Any

from astropy.io import fits
from astropy.table import Table

from batch_imaging.io.zarr_cube import read_zarr_channels

OF_PIXELS = ("RMS", "PEAK")
"""Columns that no longer hold when pixels are changed or left out."""


def read_channels(path: Path, n_chan: int) -> Table | None:
    """Return the table of a FITS or zarr cube, a row a channel; None if it has no such table."""
    table = None
    if path.is_file():
        with fits.open(path, memmap=True, lazy_load_hdus=True) as hdus:
            if "CHANNELS" in hdus and "FREQ" in hdus["CHANNELS"].columns.names:
                table = Table.read(hdus["CHANNELS"], mask_invalid=False)
                table.meta.clear()
    elif (path / "zarr.json").exists():
        table = read_zarr_channels(path)
    return table if table is not None and len(table) == n_chan else None


def channels_of(cube: Any) -> Table | None:
    """Return the table that was attached to a cube."""
    return getattr(cube, "channels", None)


def attach_channels(cube: Any, table: Table | None, *, same_pixels: bool) -> None:
    """Let a table go with a cube, without what is known of its pixels if they are not the same."""
    if table is not None and not same_pixels:
        table = table[[name for name in table.colnames if name not in OF_PIXELS]]
    cube.channels = table
