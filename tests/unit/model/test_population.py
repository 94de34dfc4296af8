"""The drawn sky against the published counts it is drawn from."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from scipy.integrate import quad

from batch_imaging.errors import ParameterError
from batch_imaging.model.direction import Direction, lmn_from_radec
from batch_imaging.model.population import differential_counts, draw_population, position_name

CENTRE = Direction.from_degrees(0.0, -30.0)
COUNTS_FREQ_HZ = 154e6


def draw(flux_limit_jy, *, field_rad=0.256, freq_hz=100e6, seed=180555, centre=CENTRE):
    return draw_population(
        centre=centre,
        field_rad=field_rad,
        flux_limit_jy=flux_limit_jy,
        ref_freq_hz=freq_hz,
        seed=seed,
    )


def integral_counts_sr(flux_jy):
    """Sources per steradian above a flux density at 154 MHz, integrated without the module."""

    def per_log_flux(log_flux):
        return differential_counts(np.exp(log_flux)) * np.exp(log_flux)

    return quad(per_log_flux, np.log(flux_jy), np.log(75))[0]


def test_counts_agree_with_an_independent_sample():
    """The G4Jy sample: 1863 sources above 4 Jy at 151 MHz in 24,831 deg² (White et al. 2020,
    PASA 37, e018). The difference in frequency is 1.6 % of flux; the noise is 2.3 %."""
    area_sr = 24_831 * np.deg2rad(1) ** 2
    at_154_mhz_jy = 4 * (154 / 151) ** -0.8
    assert integral_counts_sr(at_154_mhz_jy) * area_sr == pytest.approx(1863, rel=0.06)


@pytest.mark.parametrize(("flux_limit_jy", "freq_hz"), [(0.1, 154e6), (0.2, 100e6), (0.05, 300e6)])
def test_numbers_follow_the_counts(flux_limit_jy, freq_hz):
    sky = draw(flux_limit_jy, field_rad=0.4, freq_hz=freq_hz, seed=1)
    l, m, n_minus_1 = lmn_from_radec(sky.ra_rad, sky.dec_rad, CENTRE)
    assert max(np.abs(l).max(), np.abs(m).max()) <= 0.4
    assert (n_minus_1 > -1).all()
    # ∫∫ dl dm / n over the square
    half = np.linspace(0, 0.4, 401)[:-1] + 0.0005
    solid_angle_sr = 4 * (0.001**2 / np.sqrt(1 - half[:, None] ** 2 - half**2)).sum()
    fluxes_jy = sky.flux_jy(freq_hz)[:, 0]
    for limit_jy in (flux_limit_jy, 3 * flux_limit_jy, 10 * flux_limit_jy):
        at_counts_jy = limit_jy * (COUNTS_FREQ_HZ / freq_hz) ** -0.8
        expected = integral_counts_sr(at_counts_jy) * solid_angle_sr
        assert abs((fluxes_jy >= limit_jy).sum() - expected) < 4 * np.sqrt(expected)


def test_numbers_scatter_as_poisson():
    numbers = [len(draw(5.0, field_rad=0.1, seed=seed)) for seed in range(300)]
    assert np.mean(numbers) == pytest.approx(np.var(numbers), rel=0.35)


def test_sources_are_spread_evenly_over_the_sphere():
    """Over a whole hemisphere n is uniform, and so is the position angle."""
    sky = draw(0.3, field_rad=1.0)
    l, m, n_minus_1 = lmn_from_radec(sky.ra_rad, sky.dec_rad, CENTRE)
    n_sources = len(sky)
    assert n_sources > 20_000
    for histogram in (
        np.histogram(n_minus_1, bins=20, range=(-1, 0))[0],
        np.histogram(np.arctan2(l, m), bins=20, range=(-np.pi, np.pi))[0],
    ):
        assert histogram.sum() == n_sources
        np.testing.assert_allclose(histogram, n_sources / 20, atol=4 * np.sqrt(n_sources / 20))


def test_spectral_indices_are_normal():
    indices = np.array([c.spectrum.spectral_index for c in draw(0.1).components])
    assert indices.mean() == pytest.approx(-0.8, abs=4 * 0.2 / np.sqrt(len(indices)))
    assert indices.std() == pytest.approx(0.2, rel=0.05)
    assert (np.abs(indices + 0.8) < 0.2).mean() == pytest.approx(0.683, abs=0.02)


def test_same_seed_same_sky():
    assert draw(1.0) == draw(1.0)
    assert draw(1.0) != draw(1.0, seed=180556)


@pytest.mark.parametrize("flux_limit_jy", [3.0, 1.0, 0.3])
def test_a_lower_limit_only_adds_fainter_sources(flux_limit_jy):
    deep, shallow = draw(0.1), draw(flux_limit_jy)
    assert shallow.components == deep.components[: len(shallow)]
    fluxes_jy = deep.flux_jy(100e6)[:, 0]
    assert (np.diff(fluxes_jy) < 0).all()
    assert fluxes_jy[len(shallow)] < flux_limit_jy <= fluxes_jy[len(shallow) - 1]


def test_a_field_may_be_empty():
    sky = draw(50.0, field_rad=1e-3)
    assert len(sky) == 0
    assert sky.flux_jy([100e6, 110e6]).shape == (0, 2)


def test_a_field_at_the_pole():
    pole = Direction.from_degrees(0.0, -90.0)
    sky = draw(1.0, centre=pole)
    assert (sky.dec_rad < np.deg2rad(-90 + 22)).all()
    assert np.ptp(sky.ra_rad) > 6


@pytest.mark.parametrize("ra_deg", [0.0, 83.633, 359.9999, 360 - 1e-11])
@pytest.mark.parametrize("dec_deg", [-30.0, -0.001, 22.0145])
def test_names_truncate_the_position(ra_deg, dec_deg):
    """Within the second of time and of arc that the name drops."""
    name = position_name(np.deg2rad(ra_deg), np.deg2rad(dec_deg))
    hms, dms = name[1:7], name[7:]
    read = SkyCoord(
        f"{hms[:2]}h{hms[2:4]}m{hms[4:]}s", f"{dms[:3]}d{dms[3:5]}m{dms[5:]}s", frame="icrs"
    )
    assert 0 <= (ra_deg - read.ra.deg + 1e-9) % 360 < 15 / 3600
    assert 0 <= abs(dec_deg) - abs(read.dec.deg) + 1e-9 < 1 / 3600
    assert (dms[0] == "-") == (dec_deg < 0)


def test_names_of_the_sky():
    sky = draw(1.0)
    first = sky.components[0]
    assert first.name == "SIM" + position_name(first.ra_rad, first.dec_rad)
    assert len({c.name for c in sky.components}) == len(sky)


@pytest.mark.parametrize("flux_limit_jy", [0.0, 1e-3, -1.0, float("nan")])
def test_limits_below_the_counts_are_refused(flux_limit_jy):
    with pytest.raises(ParameterError, match=r"flux limit .* Jy at 100 MHz .* down to 0.0014 Jy"):
        draw(flux_limit_jy)


@pytest.mark.parametrize("field_rad", [0.0, -0.1, 1.1, float("nan")])
def test_impossible_fields_are_refused(field_rad):
    with pytest.raises(ParameterError, match="half side"):
        draw(1.0, field_rad=field_rad)
