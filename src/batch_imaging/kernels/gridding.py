"""Visibilities to images and back, with the w term, through ducc0's wgridder.

Arras et al. 2021 (A&A 646, A58) and Ye et al. 2022 (MNRAS 510, 4110) describe the algorithm
(improved w-stacking with an optimal kernel). Images hold flux density per pixel, so no 1/n stands
in either direction and the two functions are each other's adjoint.
"""

import ducc0
import numpy as np
from numpy.typing import NDArray

from batch_imaging.model.image import ImageGeometry

SINGLE_PRECISION_LIMIT = 1e-5
"""The smallest error ducc0 reaches in single precision; below it the work is done in double."""


def set_native_threads(threads: int) -> None:
    """Let ducc0 use up to ``threads`` threads in this process.

    Dask starts workers with OMP_NUM_THREADS=1 and ducc0 sizes its pool by that once and for all,
    so a worker with more threads must say so itself (mreineck/ducc#42).
    """
    ducc0.misc.resize_thread_pool(threads)


def _pixel_order(uvw_m: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exchange u and v: ducc0's first image axis follows the first coordinate, ours is m."""
    return np.ascontiguousarray(uvw_m[:, [1, 0, 2]])


def make_dirty(
    uvw_m: NDArray[np.float64],
    freq_hz: NDArray[np.float64],
    vis: NDArray[np.complexfloating],
    weight: NDArray[np.floating] | None,
    geometry: ImageGeometry,
    *,
    accuracy: float,
    threads: int = 1,
) -> NDArray[np.floating]:
    """Return Σ w V exp(+2πi(ul + vm + w(n − 1))), the dirty image before division by Σ w.

    All channels go into one image.

    Parameters
    ----------
    uvw_m: (row, 3); freq_hz: (chan,); vis: (row, chan) complex; weight: (row, chan) or None for 1.
    accuracy: relative error of the result.

    Returns
    -------
    (npixel, npixel), single precision if accuracy ≥ 1e-5, else double.
    """
    single = accuracy >= SINGLE_PRECISION_LIMIT
    used = np.ascontiguousarray(vis, dtype=np.complex64 if single else np.complex128)
    wgt = None
    if weight is not None:
        wgt = np.ascontiguousarray(weight, dtype=np.float32 if single else np.float64)
    return np.asarray(
        ducc0.wgridder.vis2dirty(
            uvw=_pixel_order(uvw_m),
            freq=freq_hz,
            vis=used,
            wgt=wgt,
            npix_x=geometry.npixel,
            npix_y=geometry.npixel,
            pixsize_x=geometry.cell_rad,
            pixsize_y=geometry.cell_rad,
            epsilon=accuracy,
            do_wgridding=True,
            flip_v=True,  # our columns run against l
            flip_w=True,
            divide_by_n=False,
            nthreads=threads,
        )
    )


def predict_image(
    uvw_m: NDArray[np.float64],
    freq_hz: NDArray[np.float64],
    image: NDArray[np.floating],
    geometry: ImageGeometry,
    *,
    accuracy: float,
    threads: int = 1,
) -> NDArray[np.complexfloating]:
    """Return Σ S exp(−2πi(ul + vm + w(n − 1))) over the pixels of ``image``, jansky per pixel.

    The same image is used for all channels; the adjoint of :func:`make_dirty` with unit weights.

    Returns
    -------
    (row, chan), complex64 if accuracy ≥ 1e-5, else complex128.
    """
    single = accuracy >= SINGLE_PRECISION_LIMIT
    return np.asarray(
        ducc0.wgridder.dirty2vis(
            uvw=_pixel_order(uvw_m),
            freq=freq_hz,
            dirty=np.ascontiguousarray(image, dtype=np.float32 if single else np.float64),
            pixsize_x=geometry.cell_rad,
            pixsize_y=geometry.cell_rad,
            epsilon=accuracy,
            do_wgridding=True,
            flip_v=True,
            flip_w=True,
            divide_by_n=False,
            nthreads=threads,
        )
    )
