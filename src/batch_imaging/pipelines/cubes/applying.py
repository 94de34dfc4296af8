"""Outliers clipped and users' functions applied: lazily, computed when the cube is written."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import dask.array as da
import numpy as np
from astropy.stats import sigma_clip
from numpy.typing import NDArray

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.pipelines.cubes.opening import Cube, pixels, with_pixels
from batch_imaging.pipelines.cubes.schedule import shown_place

Over = Literal["spectra", "planes"]


def clip_outliers(cube: Cube, sigma: float, over: Over, iterations: int, as_mask: bool) -> Cube:
    """Blank pixels more than ``sigma`` deviations from the median of their spectrum or plane.

    Parameters
    ----------
    as_mask: return 1 where a pixel is kept, 0 where it is clipped or blank, instead.
    """
    axis = 0 if over == "spectra" else (1, 2)

    def clip(chunk: NDArray[Any]) -> NDArray[Any]:
        known = np.ma.masked_invalid(chunk)
        clipped = sigma_clip(known, sigma=sigma, maxiters=iterations, axis=axis)
        return np.asarray(~clipped.mask if as_mask else clipped.filled(np.nan), chunk.dtype)

    return with_pixels(cube, da.map_blocks(clip, pixels(cube), dtype=pixels(cube).dtype))


def apply_function(cube: Cube, function: Callable[..., Any], name: str) -> Cube:
    """Apply a user's function to chunks (chan, row, column) of a cube.

    What it returns has the shape of what it gets; the cube keeps its type of numbers.
    """

    def call(chunk: NDArray[Any], block_info: Any = None) -> NDArray[Any]:
        chan, row, column = (slice(*ends) for ends in block_info[0]["array-location"])
        try:
            result = np.asarray(function(chunk))
            if result.shape != chunk.shape:
                raise DataError(f"it returned shape {result.shape} for {chunk.shape}")
            return result.astype(chunk.dtype)
        except Exception as error:  # whatever the user's function may raise
            where = shown_place((chan, row, column))
            raise DataError(f"{name} failed on {where}: {type(error).__name__}: {error}") from error

    return with_pixels(cube, da.map_blocks(call, pixels(cube), dtype=pixels(cube).dtype))


def load_function(text: str) -> Callable[..., Any]:
    """Return the function that ``module.py:function`` names.

    Raises
    ------
    ParameterError: there is none.
    """
    file, _, name = text.rpartition(":")
    path = Path(file)
    spec = importlib.util.spec_from_file_location(path.stem, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ParameterError(f"{text}: no such file: give it as in module.py:function")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's module may raise
        raise ParameterError(f"{path} cannot be run: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ParameterError(f"{path} has no function {name!r}")
    return function  # type: ignore[no-any-return]
