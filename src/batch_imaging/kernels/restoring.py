"""From a model and a residual to a restored image: fit the beam, convolve, add."""

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage, optimize

from batch_imaging.model.beam import FWHM_PER_SIGMA, RestoringBeam

_FIT_LEVEL = 0.35  # of the peak: the part of the main lobe that a Gaussian describes


def fit_beam(psf: NDArray[np.floating], cell_rad: float) -> RestoringBeam:
    """Fit an elliptical Gaussian to the main lobe of a point spread function.

    ``psf`` is (npixel, npixel) with its peak, 1, at (npixel/2, npixel/2). Least squares over the
    connected region above 0.35 of the peak. Raises ValueError if there is no peak, the lobe holds
    fewer than six pixels, or no Gaussian smaller than the image fits.
    """
    centre = psf.shape[0] // 2
    peak = float(psf[centre, centre])
    if not peak > 0:
        raise ValueError(f"the psf is {peak:g} at its centre: no data went into it")
    labels, _ = ndimage.label(psf > _FIT_LEVEL * peak)
    rows, columns = np.nonzero(labels == labels[centre, centre])
    if len(rows) < 6:
        raise ValueError(
            f"the main lobe of the psf covers {len(rows)} pixels: too few to fit a beam"
        )
    values = psf[rows, columns].astype(float) / peak
    dl, dm = -(columns - centre).astype(float), (rows - centre).astype(float)

    def residual(shape: NDArray[np.float64]) -> NDArray[np.float64]:
        a, b, c = shape
        return np.asarray(np.exp(-(a * dl**2 + 2 * b * dl * dm + c * dm**2)) - values)

    width = np.sqrt(len(rows) / np.pi / -np.log(_FIT_LEVEL))
    fit = optimize.least_squares(residual, [1 / width**2, 0.0, 1 / width**2])
    a, b, c = fit.x
    eigenvalues, vectors = np.linalg.eigh([[a, b], [b, c]])
    # exp(−k x²) has variance 1/(2k)
    if 2 * eigenvalues[0] * psf.shape[0] ** 2 <= FWHM_PER_SIGMA**2:
        raise ValueError("the main lobe of the psf is as large as the image: no beam fits")
    widths_rad = FWHM_PER_SIGMA * cell_rad / np.sqrt(2 * eigenvalues)
    east, north = vectors[:, 0]
    angle = np.arctan2(east, north)
    angle = (angle + np.pi / 2) % np.pi - np.pi / 2
    return RestoringBeam(float(widths_rad[0]), float(widths_rad[1]), float(angle))


def convolve_with_beam(
    model: NDArray[np.floating], beam: RestoringBeam, cell_rad: float
) -> NDArray[np.float32]:
    """Convolve an image in Jy/pixel with a unit-peak Gaussian: the result is in Jy/beam.

    The Gaussian is sampled before it is transformed, so that a point keeps its peak however narrow
    the beam; the image is padded so that nothing wraps round.
    """
    n = model.shape[0]
    margin = int(np.ceil(3 * beam.bmaj_rad / cell_rad))
    size = fft.next_fast_len(n + margin, real=True)
    offset_rad = (fft.fftfreq(size, 1 / size) * cell_rad).astype(np.float32)
    l, m = -offset_rad[np.newaxis, :], offset_rad[:, np.newaxis]
    sin, cos = np.float32(np.sin(beam.bpa_rad)), np.float32(np.cos(beam.bpa_rad))
    major = (l * sin + m * cos) * np.float32(FWHM_PER_SIGMA / beam.bmaj_rad)
    minor = (l * cos - m * sin) * np.float32(FWHM_PER_SIGMA / beam.bmin_rad)
    spectrum = fft.rfft2(np.exp(-(major**2 + minor**2) / 2))
    spectrum *= fft.rfft2(model.astype(np.float32), s=(size, size))
    return np.asarray(fft.irfft2(spectrum, s=(size, size))[:n, :n], dtype=np.float32)
