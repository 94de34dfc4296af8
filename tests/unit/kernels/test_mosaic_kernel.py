"""Weights, widths and resampling of mosaics, against theory."""

import numpy as np
import pytest

from batch_imaging.kernels.mosaic import Interpolator, PrimaryBeam, WeightedSum

SHAPES = ("gaussian", "airy")


@pytest.mark.parametrize("shape", SHAPES)
def test_primary_beam_has_its_width_at_every_frequency(shape):
    beam = PrimaryBeam(shape, 0.02, 1.4e9)
    assert beam.power(np.array([0.0, 0.01]), 1.4e9) == pytest.approx([1, 0.5], abs=1e-3)
    assert beam.power(np.array([0.02]), 0.7e9) == pytest.approx([0.5], abs=1e-3)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", [0.01, 0.1, 0.5, 0.9])
def test_radius_is_where_the_beam_falls_to_the_level(shape, level):
    beam = PrimaryBeam.of_dish(shape, 12.0)
    radius_rad = beam.radius_rad(level, 1e9)
    assert float(beam.power(np.array(radius_rad), 1e9)) == pytest.approx(level)


def test_airy_beam_has_no_side_lobes_and_nothing_behind():
    angles = np.linspace(0, np.pi, 5000)
    power = PrimaryBeam.of_dish("airy", 3.0).power(angles, 1e9)
    assert (np.diff(power) <= 0).all()
    assert power[-1] == 0


def test_a_beam_wider_than_the_sky_reaches_all_of_it():
    assert PrimaryBeam("gaussian", 10.0, 1e9).radius_rad(0.1, 1e9) == np.pi


def test_a_gaussian_of_five_pixels_is_recovered_between_pixels():
    def gaussian(row, column):
        return np.exp(-4 * np.log(2) * ((row - 20.2) ** 2 + (column - 18.7) ** 2) / 25)

    plane = gaussian(*np.mgrid[:40, :40])
    row, column = np.random.default_rng(1).uniform(2, 37, (2, 500))
    assert Interpolator(plane)(row, column) == pytest.approx(gaussian(row, column), abs=2e-3)


def test_nothing_is_known_off_the_plane_and_beside_blank_pixels():
    plane = np.ones((10, 10))
    plane[5, 5] = np.nan
    row, column = np.array([[0, 9, -0.5, 9.5, 5, 4.5, 4, 3], [0, 9, 4, 4, 5, 5, 5, 5]], float)
    known = np.isfinite(Interpolator(plane)(row, column))
    assert known.tolist() == [True, True, False, False, False, False, True, True]


def test_the_sum_has_the_least_noise_and_knows_it():
    rng = np.random.default_rng(2)
    at = tuple(np.mgrid[:200, :200])
    total = WeightedSum(200, 200)
    expected = 0.0
    for power, noise in ((1.0, 0.1), (0.5, 0.1), (0.3, 0.02)):
        values = power * 7.0 + rng.normal(0, noise, (200, 200))
        total.add(at, values, np.full(values.shape, power), noise)
        expected += power**2 / noise**2
    assert total.weight == pytest.approx(expected)
    error = total.mean() - 7.0
    assert error.std() * np.sqrt(expected) == pytest.approx(1, abs=0.02)
    assert abs(error.mean()) < 5 / np.sqrt(expected * error.size)


def test_pixels_without_values_are_nan_and_weigh_nothing():
    total = WeightedSum(1, 2)
    at = (np.array([0, 0]), np.array([0, 1]))
    total.add(at, np.array([2.0, np.nan]), np.array([0.5, 0.5]), 1.0)
    assert total.mean().tolist()[0][0] == 4
    assert np.isnan(total.mean()[0, 1])
    assert total.weight.tolist() == [[0.25, 0]]
