"""Noise of an image that also holds sources."""

import numpy as np
from numpy.typing import NDArray

GAUSSIAN_SIGMA_PER_MAD = 1.4826
STRIDE = 2  # neighbours lie in one beam: every other pixel says as much


def robust_noise(plane: NDArray[np.floating]) -> float:
    """Return the standard deviation of a Gaussian with the plane's median absolute deviation.

    ``plane`` is (row, column), every other pixel of which is looked at.
    """
    sample = plane[::STRIDE, ::STRIDE]
    return float(GAUSSIAN_SIGMA_PER_MAD * np.median(np.abs(sample - np.median(sample))))
