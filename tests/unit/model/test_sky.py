"""Spectra and the flux densities of a sky model."""

import numpy as np
import pytest

from batch_imaging.model.sky import PowerLaw, SkyComponent, SkyModel, TabulatedSpectrum


def test_a_power_law_is_a_straight_line_in_logarithms():
    spectrum = PowerLaw(flux_ref_jy=4.0, ref_freq_hz=150e6, spectral_index=-0.8)
    np.testing.assert_allclose(
        spectrum.flux_jy([150e6, 300e6, 75e6]), [4.0, 4.0 * 2**-0.8, 4.0 * 2**0.8]
    )


def test_curvature_bends_it_alike_on_both_sides():
    straight = PowerLaw(2.0, 100e6, -0.7)
    bent = PowerLaw(2.0, 100e6, -0.7, curvature=-0.3)
    freq_hz = np.array([50e6, 100e6, 200e6])
    ratio = bent.flux_jy(freq_hz) / straight.flux_jy(freq_hz)
    np.testing.assert_allclose(ratio, np.exp(-0.3 * np.log(2) ** 2 * np.array([1, 0, 1])))


def test_a_flat_spectrum_is_flat():
    np.testing.assert_array_equal(PowerLaw(3.0, 1e8).flux_jy([5e7, 3e8]), 3.0)


def test_a_table_goes_through_its_points_by_power_laws():
    truth = PowerLaw(5.0, 100e6, -0.7)
    freq_hz = (80e6, 120e6, 160e6)
    table = TabulatedSpectrum(freq_hz, tuple(truth.flux_jy(freq_hz)))
    anywhere = np.array([60e6, 80e6, 100e6, 120e6, 150e6, 160e6, 300e6])  # beyond the ends too
    np.testing.assert_allclose(table.flux_jy(anywhere), truth.flux_jy(anywhere), rtol=1e-12)


def test_a_table_keeps_each_point_of_a_broken_spectrum():
    table = TabulatedSpectrum((1e8, 2e8, 4e8), (1.0, 4.0, 1.0))
    between = np.sqrt(2) * np.array([1e8, 2e8])
    np.testing.assert_allclose(table.flux_jy([1e8, 2e8, 4e8]), [1.0, 4.0, 1.0])
    np.testing.assert_allclose(table.flux_jy(between), [2.0, 2.0])


def test_a_table_of_one_point_is_flat():
    np.testing.assert_array_equal(TabulatedSpectrum((1e8,), (2.5,)).flux_jy([5e7, 4e8]), 2.5)


def test_a_table_with_a_zero_is_interpolated_straight():
    table = TabulatedSpectrum((1e8, 4e8), (0.0, 2.0))
    np.testing.assert_allclose(table.flux_jy([1e8, 2e8, 4e8]), [0.0, 1.0, 2.0])


def test_a_scalar_frequency_gives_a_scalar():
    assert np.shape(PowerLaw(1.0, 1e8).flux_jy(2e8)) == ()
    assert np.shape(TabulatedSpectrum((1e8, 2e8), (1.0, 2.0)).flux_jy(1.5e8)) == ()


def test_a_model_tabulates_its_components():
    model = SkyModel(
        (
            SkyComponent("a", 0.1, -0.5, PowerLaw(1.0, 1e8, -1.0)),
            SkyComponent("b", 0.2, -0.4, TabulatedSpectrum((1e8,), (3.0,)), bmaj_rad=1e-3),
        )
    )
    assert len(model) == 2
    np.testing.assert_array_equal(model.ra_rad, [0.1, 0.2])
    np.testing.assert_array_equal(model.dec_rad, [-0.5, -0.4])
    np.testing.assert_allclose(model.flux_jy([1e8, 2e8]), [[1.0, 0.5], [3.0, 3.0]])
    assert model.flux_jy(2e8).shape == (2, 1)


@pytest.mark.parametrize("freq_hz", [1e8, [1e8, 2e8, 3e8]])
def test_an_empty_model_has_no_flux(freq_hz):
    empty = SkyModel(())
    assert empty.flux_jy(freq_hz).shape == (0, np.size(freq_hz))
    assert empty.ra_rad.shape == (0,)
