"""Beams against the figures of textbooks: a filled aperture's widths, a Gaussian's integral."""

import numpy as np
import pytest
from scipy.optimize import brentq

from batch_imaging.model.beam import (
    FWHM_PER_SIGMA,
    SPEED_OF_LIGHT_M_S,
    RestoringBeam,
    station_power_beam,
)


@pytest.mark.parametrize("freq_hz", [50e6, 150e6, 350e6])
@pytest.mark.parametrize("diameter_m", [35.0, 38.0])
class TestStationPowerBeam:
    def test_half_power_width_is_1_03_wavelengths_per_diameter(self, freq_hz, diameter_m):
        unit = SPEED_OF_LIGHT_M_S / freq_hz / diameter_m
        half = brentq(
            lambda l: station_power_beam(l, 0.0, freq_hz, diameter_m) - 0.5, 0.1 * unit, unit
        )
        assert 2 * half / unit == pytest.approx(1.029, abs=1e-3)

    def test_first_null_is_at_1_22_wavelengths_per_diameter(self, freq_hz, diameter_m):
        unit = SPEED_OF_LIGHT_M_S / freq_hz / diameter_m
        radius = np.linspace(0.5, 1.5, 10_001)
        power = station_power_beam(radius * unit, 0.0, freq_hz, diameter_m)
        assert radius[power.argmin()] == pytest.approx(1.2197, abs=2e-4)
        assert power.min() < 1e-8

    def test_first_sidelobe_is_17_57_db_down(self, freq_hz, diameter_m):
        unit = SPEED_OF_LIGHT_M_S / freq_hz / diameter_m
        sidelobe = station_power_beam(np.linspace(1.25, 2.2, 5001) * unit, 0.0, freq_hz, diameter_m)
        assert 10 * np.log10(sidelobe.max()) == pytest.approx(-17.57, abs=0.01)


def test_the_station_beam_is_one_at_the_centre_and_round():
    angle = np.linspace(0, 2 * np.pi, 13)
    ring = station_power_beam(0.05 * np.cos(angle), 0.05 * np.sin(angle), 1e8, 38.0)
    np.testing.assert_allclose(ring, ring[0])
    assert station_power_beam(0.0, 0.0, 1e8, 38.0) == pytest.approx(1.0, abs=1e-12)
    assert station_power_beam(1e-9, 0.0, 1e8, 38.0) == pytest.approx(1.0, abs=1e-12)


def test_the_station_beam_is_the_transform_of_a_disc():
    """A sum over elements spread evenly over the aperture, steered to the zenith."""
    x, y = (np.mgrid[-200:201, -200:201] + 0.0) * 19.0 / 200
    inside = np.hypot(x, y) <= 19.0
    waves = 1e8 / SPEED_OF_LIGHT_M_S
    l, m = np.array([0.02, 0.05, -0.09]), np.array([0.01, -0.04, 0.02])
    voltage = np.exp(2j * np.pi * waves * (np.outer(l, x[inside]) + np.outer(m, y[inside])))
    power = np.abs(voltage.mean(axis=1)) ** 2
    np.testing.assert_allclose(station_power_beam(l, m, 1e8, 38.0), power, atol=1e-3)


def test_solid_angle_is_the_integral_of_the_gaussian():
    beam = RestoringBeam(bmaj_rad=3e-3, bmin_rad=2e-3, bpa_rad=0.3)
    offset = np.linspace(-0.01, 0.01, 401)
    profiles = (np.exp(-((offset / w * FWHM_PER_SIGMA) ** 2) / 2) for w in (3e-3, 2e-3))
    integral = np.prod([profile.sum() * 5e-5 for profile in profiles])
    assert beam.solid_angle_sr == pytest.approx(integral, rel=1e-9)
    assert np.exp(-((FWHM_PER_SIGMA / 2) ** 2) / 2) == pytest.approx(0.5)
