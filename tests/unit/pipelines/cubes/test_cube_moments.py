"""Moments against spectral-cube's, and of a line of known flux, velocity and width."""

from pathlib import Path

import numpy as np
import pytest
from astropy import units
from astropy.coordinates import EarthLocation, SkyCoord
from astropy.time import Time

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.pipelines.cubes.moments import Velocities, make_moments

HERE = Path("cube.fits")
C_KM_S = 299792.458


def test_moments_are_those_of_spectral_cube(opened, schedule):
    pixels = np.random.default_rng(5).uniform(1, 2, (6, 12, 10)).astype(np.float32)
    pixels[:, 4, 5] = np.nan
    pixels[3, 2, 2] = np.nan
    maps = make_moments(opened(pixels, along="spectra", chunk=(0, 5, 4)), schedule(), HERE)
    cube = opened(pixels).with_spectral_unit("km/s", velocity_convention="radio")
    peer = {n: cube.moment(n).value for n in (0, 1)} | {2: cube.linewidth_sigma().value}
    for order, expected in peer.items():
        np.testing.assert_allclose(maps[str(order)].data, expected, rtol=2e-5)
        assert np.isnan(maps[str(order)].data[4, 5])
    assert maps["0"].header["BUNIT"] == "Jy/beam km/s"
    assert maps["1"].header["BUNIT"] == maps["2"].header["BUNIT"] == "km/s"


def line(centre_km_s, sigma_km_s, integral, n_chan=60):
    velocity = C_KM_S * 50e3 / 1.42e9 * np.arange(n_chan)
    profile = np.exp(-0.5 * ((velocity - centre_km_s) / sigma_km_s) ** 2)
    return integral * profile / (sigma_km_s * np.sqrt(2 * np.pi))


@pytest.fixture
def line_cube(opened):
    pixels = np.random.default_rng(8).normal(0, 0.01, (60, 9, 9)).astype(np.float32)
    pixels[:, 4, 4] += line(300.0, 40.0, 500.0)
    return opened(pixels, along="spectra", DATE_OBS="2024-03-01T06:00:00")


def test_a_line_is_found_above_the_noise(line_cube, schedule):
    maps = make_moments(line_cube, schedule(), HERE, moments=("0", "1", "2", "peak"), sigma=6.0)
    assert maps["0"].data[4, 4] == pytest.approx(500, rel=0.01)
    assert maps["1"].data[4, 4] == pytest.approx(300, abs=0.5)
    assert maps["2"].data[4, 4] == pytest.approx(40, rel=0.03)
    assert maps["peak"].data[4, 4] == pytest.approx(500 / 40 / np.sqrt(2 * np.pi), rel=0.01)
    elsewhere = np.delete(maps["0"].data.ravel(), 4 * 9 + 4)
    assert np.isnan(elsewhere).mean() > 0.9


def test_a_mask_says_what_counts(line_cube, opened, schedule):
    mask = np.zeros((60, 9, 9), np.float32)
    mask[:, 4, 4] = 1
    maps = make_moments(line_cube, schedule(), HERE, moments=["1"], mask=opened(mask))
    assert np.isfinite(maps["1"].data).sum() == 1
    with pytest.raises(DataError, match="the mask has shape"):
        make_moments(line_cube, schedule(), HERE, mask=opened(mask[:5]))


def test_velocities_follow_rest_frequency_and_convention(opened):
    cube = opened(np.zeros((3, 4, 4), np.float32))
    freq_hz = 1.42e9 - 50e3 * np.arange(3)
    optical = Velocities(1.43e9, "optical").of(cube, HERE)
    np.testing.assert_allclose(optical, C_KM_S * (1.43e9 / freq_hz - 1))


def test_a_cube_without_rest_frequency_needs_one(opened, schedule):
    cube = opened(np.zeros((3, 4, 4), np.float32), RESTFRQ=0.0)
    with pytest.raises(ParameterError, match="--rest-freq"):
        make_moments(cube, schedule(), HERE)


def test_velocities_in_another_frame(opened):
    site = EarthLocation.from_geodetic(116.6, -26.7)
    place = {f"OBSGEO_{x}": getattr(site, x.lower()).to_value("m") for x in "XYZ"}
    cube = opened(np.zeros((3, 4, 4), np.float32), DATE_OBS="2024-03-01T06:00:00", **place)
    here = Velocities().of(cube, HERE)
    there = Velocities(frame="BARYCENT").of(cube, HERE)
    target = SkyCoord(40.0, -30.0, unit="deg")
    correction = target.radial_velocity_correction(
        "barycentric", Time("2024-03-01T06:00:00"), location=site
    )
    expected = here + correction.to_value("km/s") * (1 - here / C_KM_S)
    # The correction counts 5 m/s of gravity and of the observatory's clock besides.
    np.testing.assert_allclose(there, expected, atol=6e-3)
    assert abs(there[0] - here[0]) > 1
    assert units.Quantity(there[0], "km/s").isscalar
    with pytest.raises(DataError, match=r"OBSGEO-X.*leave --frame out"):
        Velocities(frame="LSRK").of(opened(np.zeros((3, 4, 4), np.float32)), HERE)
