"""Copies of cubes, FITS or zarr, in other chunks."""

from dataclasses import replace
from pathlib import Path

from batch_imaging.errors import ParameterError
from batch_imaging.pipelines.cubes.opening import open_cube, pixels
from batch_imaging.pipelines.cubes.schedule import Along, Schedule, parse_chunk
from batch_imaging.pipelines.cubes.writing import write_cube


def rechunk_cube(
    cube: Path,
    output: Path,
    schedule: Schedule,
    chunk: str | None = None,
    stokes: str = "I",
    *,
    overwrite: bool = False,
    tmp_dir: Path | None = None,
) -> None:
    """Copy a cube, holding only some chunks of the output at a time.

    Parameters
    ----------
    chunk: channels,rows,columns that a zarr output is read by; 0 for a whole axis.
    tmp_dir: as of `write_cube`.

    Raises
    ------
    ParameterError: the chunk is none; ResourceError: it does not fit into memory.
    """
    if chunk is None:
        opened = open_cube(cube, schedule, stokes=stokes)
        write_cube(opened, output, schedule, "rechunk", overwrite=overwrite, tmp_dir=tmp_dir)
        return
    wanted = parse_chunk(chunk)
    if not isinstance(wanted, tuple):
        raise ParameterError(f"--chunk {chunk}: give channels,rows,columns as in 0,32,32")
    opened = open_cube(cube, schedule, stokes=stokes)
    smallest = tuple(min(n, whole) or whole for n, whole in zip(wanted, opened.shape, strict=True))
    fitting = pixels(opened).chunksize
    # What is copied at a time is made of whole chunks, and is as large as memory allows.
    along: Along = "spectra" if smallest[0] == opened.shape[0] else "any"
    if along == "spectra":
        fitting = pixels(open_cube(cube, schedule, along, stokes=stokes)).chunksize
    block = tuple(max(n, fits // n * n) for n, fits in zip(smallest, fitting, strict=True))
    opened = open_cube(cube, replace(schedule, chunk=block), stokes=stokes)
    write_cube(
        opened, output, schedule, "rechunk", overwrite=overwrite, chunk=smallest, tmp_dir=tmp_dir
    )
