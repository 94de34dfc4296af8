"""Cubes written: FITS or zarr by the name of the output, complete or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS

from batch_imaging.errors import ParameterError, ProductError, ResourceError
from batch_imaging.execution.memory import shown_bytes
from batch_imaging.io.fits_image import partial_path
from batch_imaging.io.plane_sink import remove_cube
from batch_imaging.io.zarr_cube import ZarrWriter
from batch_imaging.pipelines.cubes.channels import channels_of
from batch_imaging.pipelines.cubes.fits_file import FitsWriter, cube_header
from batch_imaging.pipelines.cubes.opening import (
    Cube,
    beams_deg,
    header_of,
    open_cube,
    pixels,
    quiet,
)
from batch_imaging.pipelines.cubes.schedule import Schedule
from batch_imaging.pipelines.cubes.selection import spectral_axis


def write_cube(
    cube: Cube,
    output: Path,
    schedule: Schedule,
    title: str,
    *,
    overwrite: bool = False,
    chunk: tuple[int, int, int] | None = None,
    tmp_dir: Path | None = None,
) -> None:
    """Compute a cube chunk by chunk, and write each as it comes.

    Parameters
    ----------
    chunk: (channels, rows, columns) of a zarr cube, by default one channel and a tile.
    tmp_dir: where all is computed into a zarr cube first, which is then copied to the output in
        the output's own order.

    Raises
    ------
    ParameterError: the output exists, or there is no such ``tmp_dir``; ResourceError: the disk is
    too small; ProductError: it could not be written, and nothing is left of it.
    """
    if tmp_dir is not None:
        with temporary_folder(tmp_dir) as folder:
            saved = folder / "cube.zarr"
            write_cube(cube, saved, schedule, f"{title}, to {tmp_dir}")
            reading = schedule
            if chunk is not None:  # shards of the output must not be written twice
                computed = cast("tuple[int, int, int]", pixels(cube).chunksize)
                reading = replace(schedule, chunk=computed)
            opened = open_cube(saved, reading)
            write_cube(opened, output, schedule, "write", overwrite=overwrite, chunk=chunk)
        return
    with creating(output, overwrite=overwrite) as partial:
        require_disk(output, pixels(cube).nbytes)
        writer = _writer(cube, output, partial, chunk)
        with quiet():
            for place, block in schedule.map_chunks(_block, (pixels(cube),), title):
                writer.write(place, block)


def _block(_: object, block: np.ndarray) -> np.ndarray:
    return block


def _writer(
    cube: Cube, output: Path, partial: Path, chunk: tuple[int, int, int] | None
) -> FitsWriter | ZarrWriter:
    header, beams = written_header(cube), beams_deg(cube)
    varying = beams if beams is not None and len(beams) > 1 else None
    dtype, channels = pixels(cube).dtype, channels_of(cube)
    if output.suffix != ".zarr":
        return FitsWriter.create(partial, cube.shape, dtype, header, varying, channels)
    return ZarrWriter.create(
        partial,
        cube.shape,
        dtype,
        header,
        None if beams is None else np.broadcast_to(beams, (cube.shape[0], 3)),
        freq_hz=spectral_axis(cube, "Hz", output),
        time_mjd_s=86400 * Time(header["DATE-OBS"]).mjd if "DATE-OBS" in header else 0.0,
        block=cast("tuple[int, int, int]", pixels(cube).chunksize),
        chunk=chunk,
        channels=channels,
    )


def written_header(cube: Cube) -> fits.Header:
    """Return the header of a cube in our spelling of units."""
    header = header_of(cube)
    with quiet():
        header = cube_header(header, WCS(header))
    if cube.unit.is_equivalent("Jy/beam"):
        header["BUNIT"] = "Jy/beam"
    return header


def require_disk(output: Path, needed_bytes: float) -> None:
    """Raise ResourceError if there is no room for an output beside what is there."""
    free_bytes = shutil.disk_usage(output.absolute().parent).free
    if needed_bytes > free_bytes:
        raise ResourceError(
            f"{output}: it takes {shown_bytes(needed_bytes)}, and {shown_bytes(free_bytes)} are "
            "free there: write it to another disk, or make room"
        )


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder, which is removed with all that is in it.

    Raises
    ------
    ParameterError: ``parent`` is no folder to write in.
    """
    try:
        folder = TemporaryDirectory(prefix="cube-", dir=parent)
    except OSError as error:
        raise ParameterError(
            f"{parent}: no temporary zarr can be there, {error.strerror}: give a folder to write in"
        ) from error
    with folder as name:
        yield Path(name)


@contextmanager
def creating(output: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield the name to write a file or folder under; it is renamed if the block succeeds.

    Raises
    ------
    ParameterError: the output exists; ProductError: it could not be written.
    """
    if output.exists() and not overwrite:
        raise ParameterError(f"{output} exists: give another --output, or --overwrite")
    partial = partial_path(output)
    try:
        remove_cube(partial)
        output.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        remove_cube(output)
        partial.replace(output)
    except OSError as error:
        raise ProductError(
            f"{output}: could not be written ({error}): look at the free space and the permissions "
            f"of {output.parent}"
        ) from error
    finally:
        remove_cube(partial)
