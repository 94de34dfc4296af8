"""A random sky: point sources with the numbers, fluxes and spectra of the extragalactic sky.

Numbers follow the counts of GLEAM at 154 MHz (Franzen et al. 2019, PASA 36, e004):
log10(S^2.5 dN/dS) = Σ a_i (log10 S)^i, S in Jy, counts in Jy^1.5 sr⁻¹, fitted from 1 mJy to 75 Jy.
Other frequencies are reached by the mean spectral index. Clustering, sizes and the few sources
above 75 Jy are not modelled.
"""

from functools import cache

import numpy as np
from numpy.polynomial.polynomial import polyval
from scipy.integrate import cumulative_simpson
from scipy.special import ndtri

from batch_imaging.errors import ParameterError
from batch_imaging.model.direction import Direction, radec_from_lm
from batch_imaging.model.geometry import Floats
from batch_imaging.model.sky import PowerLaw, SkyComponent, SkyModel

COUNTS_FREQ_HZ = 154e6
COUNTS_RANGE_JY = (1e-3, 75.0)
COUNTS_COEFFICIENTS = (3.52, 0.307, -0.388, -0.0404, 0.0351, 0.00600)

# Mean and scatter of S ∝ ν^α for sources above 0.5 Jy (Hurley-Walker et al. 2017, MNRAS 464, 1146;
# the mean is also the one Franzen et al. find from 88 to 200 MHz).
SPECTRAL_INDEX_MEAN = -0.8
SPECTRAL_INDEX_SCATTER = 0.2

_BLOCK = 1024


def draw_population(
    *, centre: Direction, field_rad: float, flux_limit_jy: float, ref_freq_hz: float, seed: int
) -> SkyModel:
    """Draw the point sources of a square field, brightest first; there may be none.

    The sources are those of a Poisson process in flux density, followed down from the brightest:
    a lower limit adds fainter ones and changes none of those above it.

    Parameters
    ----------
    centre: middle of the field.
    field_rad: half the side of the field in direction cosines, |l| and |m| ≤ field_rad ≤ 1.
    flux_limit_jy: faintest flux density at ``ref_freq_hz``.
    seed: the same seed gives the same sky.

    Raises
    ------
    ParameterError: the field is no part of a hemisphere, or the counts do not reach so deep.
    """
    if not 0 < field_rad <= 1:
        raise ParameterError(
            f"a field of ±{field_rad:g} in direction cosines: its half side must be in (0, 1]"
        )
    # A flux density at ref_freq_hz is this many times that at the frequency of the counts.
    flux_scale = (ref_freq_hz / COUNTS_FREQ_HZ) ** SPECTRAL_INDEX_MEAN
    if not flux_limit_jy >= COUNTS_RANGE_JY[0] * flux_scale:
        raise ParameterError(
            f"flux limit {flux_limit_jy:g} Jy at {ref_freq_hz / 1e6:g} MHz is below the source "
            f"counts, known down to {COUNTS_RANGE_JY[0] * flux_scale:.2g} Jy there"
        )

    # Sources spread evenly in m and in ψ = atan2(l, n) are spread evenly over the sphere. They are
    # drawn from the piece |m|, |ψ| that just holds the square, and those outside it left out.
    psi_max = np.arctan2(field_rad, np.sqrt(max(1 - 2 * field_rad**2, 0.0)))
    piece_sr = 4 * field_rad * psi_max
    draws, fluxes_jy = _draw_fluxes(flux_limit_jy / flux_scale, piece_sr, seed)

    m = field_rad * (2 * draws[:, 0] - 1)
    l = np.sqrt(1 - m**2) * np.sin(psi_max * (2 * draws[:, 1] - 1))
    ra_rad, dec_rad = radec_from_lm(l, m, centre)
    spectral_index = SPECTRAL_INDEX_MEAN + SPECTRAL_INDEX_SCATTER * ndtri(draws[:, 2])
    return SkyModel(
        tuple(
            SkyComponent(
                name="SIM" + position_name(ra_rad[k], dec_rad[k]),
                ra_rad=float(ra_rad[k]),
                dec_rad=float(dec_rad[k]),
                spectrum=PowerLaw(
                    float(fluxes_jy[k] * flux_scale), ref_freq_hz, float(spectral_index[k])
                ),
            )
            for k in np.flatnonzero(np.abs(l) <= field_rad)
        )
    )


def differential_counts(flux_jy: Floats) -> Floats:
    """Return dN/dS, Jy⁻¹ sr⁻¹, at flux densities at 154 MHz."""
    return np.asarray(10 ** polyval(np.log10(flux_jy), COUNTS_COEFFICIENTS) * flux_jy**-2.5)


def position_name(ra_rad: float, dec_rad: float) -> str:
    """Return Jhhmmss±ddmmss, truncated as the IAU wants positions in names."""
    # A microsecond more, so that whole seconds survive the conversion to radians.
    ra_s = int(np.rad2deg(ra_rad) * 240 + 1e-6) % 86_400
    dec_arcsec = int(abs(np.rad2deg(dec_rad)) * 3600 + 1e-6)
    sign = "-" if dec_rad < 0 else "+"
    return f"J{_sexagesimal(ra_s)}{sign}{_sexagesimal(dec_arcsec)}"


def _draw_fluxes(limit_jy: float, solid_angle_sr: float, seed: int) -> tuple[Floats, Floats]:
    """Return uniform draws (source, 3) and descending flux densities (source,) at 154 MHz."""
    depth, counts_sr = _integral_counts()
    limit_sr = float(np.interp(-np.log(limit_jy), depth, counts_sr))

    # N(>S) Ω of the k-th brightest source is the sum of k exponential waiting times.
    rng = np.random.Generator(np.random.PCG64(seed))
    draws, reached_sr = np.empty((0, 4)), np.empty(0)
    while not len(reached_sr) or reached_sr[-1] <= limit_sr:
        draws = np.concatenate([draws, rng.uniform(size=(_BLOCK, 4))])
        reached_sr = np.cumsum(-np.log1p(-draws[:, 3])) / solid_angle_sr

    n_sources = np.searchsorted(reached_sr, limit_sr, side="right")
    fluxes_jy = np.exp(-np.interp(reached_sr[:n_sources], counts_sr, depth))
    return draws[:n_sources, :3], fluxes_jy


@cache
def _integral_counts() -> tuple[Floats, Floats]:
    """Return depths −ln S, ascending (S at 154 MHz, Jy), and the numbers N(>S) per steradian."""
    faintest, brightest = COUNTS_RANGE_JY
    depth = np.linspace(-np.log(brightest), -np.log(faintest), 4001)
    flux_jy = np.exp(-depth)
    per_log_flux = differential_counts(flux_jy) * flux_jy
    counts_sr = cumulative_simpson(per_log_flux, x=depth, initial=0.0)
    return depth, np.asarray(counts_sr)


def _sexagesimal(seconds: int) -> str:
    return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}"
