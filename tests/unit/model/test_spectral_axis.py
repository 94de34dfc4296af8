"""Spectral axes: velocities, frames against astropy, regridding and selection."""

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import EarthLocation, SkyCoord, SpectralCoord
from astropy.time import Time
from astropy.utils import iers

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.model.direction import Direction
from batch_imaging.model.spectral_axis import (
    SpectralAxis,
    SpectralRange,
    doppler_factor,
    freq_from_velocity,
    parse_ranges,
    velocity_from_freq,
)

SPEED_OF_LIGHT_M_S = 299_792_458.0
HI_HZ = 1_420_405_751.768
PLACE_ITRF_M = np.array([-2_565_018.0, 5_085_713.0, -2_861_052.0])


def regular(n_chan=64, width_hz=1e4, start_hz=1.4e9, **more) -> SpectralAxis:
    return SpectralAxis(start_hz + width_hz * np.arange(n_chan), np.full(n_chan, width_hz), **more)


@pytest.mark.filterwarnings("ignore:No velocity defined on frame")
@pytest.mark.parametrize("target", ["bary", "lsrk"])
@pytest.mark.parametrize("position", [(201.4, -30.5), (83.6, 22.0), (270.0, 66.5)])
def test_doppler_over_a_night_is_that_of_astropy(target, position):
    night = 59_025.4 * 86_400 + 3600 * np.arange(12.0)
    direction = Direction.from_degrees(*position)
    frame = "LSRK" if target == "lsrk" else "BARY"
    factor = doppler_factor("TOPO", frame, night, direction, PLACE_ITRF_M)
    velocity_m_s = SPEED_OF_LIGHT_M_S * (factor**2 - 1) / (factor**2 + 1)
    with iers.conf.set_temp("auto_download", False):
        for time_mjd_s, ours in zip(night, velocity_m_s, strict=True):
            time = Time(time_mjd_s / 86_400, format="mjd", scale="utc")
            place = EarthLocation.from_geocentric(*PLACE_ITRF_M, unit="m")
            coordinate = SpectralCoord(
                HI_HZ * u.Hz,
                observer=place.get_itrs(obstime=time),
                target=SkyCoord(*(position * u.deg), distance=1e6 * u.kpc),
            )
            moved = coordinate.with_observer_stationary_relative_to(
                "icrs" if target == "bary" else "lsrk"
            )
            ratio = float(moved.to_value(u.Hz)) / HI_HZ
            theirs = SPEED_OF_LIGHT_M_S * (ratio**2 - 1) / (ratio**2 + 1)
            assert abs(ours - theirs) < 1.0
    assert np.ptp(velocity_m_s) > 100  # the earth turns


def test_doppler_there_and_back():
    direction = Direction.from_degrees(10, -30)
    there = doppler_factor("BARY", "LSRK", 59_025.0 * 86_400, direction, PLACE_ITRF_M)
    back = doppler_factor("LSRK", "BARY", 59_025.0 * 86_400, direction, PLACE_ITRF_M)
    assert there * back == pytest.approx(1, abs=1e-15)
    assert doppler_factor("TOPO", "TOPO", 0.0, direction, PLACE_ITRF_M) == 1


@pytest.mark.parametrize("convention", ["radio", "optical"])
def test_velocities_and_back(convention):
    velocity_m_s = np.linspace(-3e5, 5e6, 7)
    freq_hz = freq_from_velocity(velocity_m_s, HI_HZ, convention)
    doppler = u.doppler_radio if convention == "radio" else u.doppler_optical
    theirs = (freq_hz * u.Hz).to_value(u.m / u.s, equivalencies=doppler(HI_HZ * u.Hz))
    np.testing.assert_allclose(velocity_from_freq(freq_hz, HI_HZ, convention), velocity_m_s)
    np.testing.assert_allclose(theirs, velocity_m_s, atol=1e-3)


def test_velocities_need_a_rest_frequency():
    with pytest.raises(ParameterError, match="rest frequency"):
        regular().velocity_m_s()


def test_regridding_onto_itself_is_no_change():
    axis = regular()
    np.testing.assert_array_equal(axis.weights_onto(axis).toarray(), np.eye(64))


def test_regridding_between_equal_widths_is_linear_interpolation():
    axis = regular()
    target = SpectralAxis(axis.freq_hz[5:20] + 3e3, axis.width_hz[5:20])
    spectrum = np.random.default_rng(1).normal(size=64)
    expected = np.interp(target.freq_hz, axis.freq_hz, spectrum)
    np.testing.assert_allclose(axis.weights_onto(target) @ spectrum, expected, atol=1e-9)


def test_regridding_onto_velocities_keeps_a_line_with_irregular_channels():
    rng = np.random.default_rng(2)
    edges_hz = 1.4190e9 + np.concatenate([[0], np.cumsum(rng.uniform(2e3, 2e4, 300))])[::-1]
    axis = SpectralAxis((edges_hz[1:] + edges_hz[:-1]) / 2, -np.diff(edges_hz), "LSRK", HI_HZ)
    line = np.exp(-0.5 * ((axis.velocity_m_s() - 0.5e5) / 2e4) ** 2)
    target = SpectralAxis.from_velocities(-5e4, 5e3, 40, rest_freq_hz=HI_HZ)
    regridded = axis.weights_onto(target) @ line
    assert (regridded * target.width_hz).sum() == pytest.approx(
        (line * axis.width_hz).sum(), rel=1e-3
    )
    mean_m_s = np.average(target.velocity_m_s(), weights=regridded)
    assert mean_m_s == pytest.approx(0.5e5, abs=500)


def test_gaps_and_masked_channels_stay_empty():
    freq_hz = np.concatenate([1.40e9 + 1e4 * np.arange(10), 1.41e9 + 1e4 * np.arange(10)])
    mask = np.zeros(20, dtype=bool)
    mask[3] = True
    axis = SpectralAxis(freq_hz, np.full(20, 1e4), mask=mask)
    target = regular(1011, 1e4, 1.40e9)
    covered = axis.weights_onto(target).sum(axis=1)
    filled = [0, 1, 2, *range(4, 10), *range(1000, 1010)]
    np.testing.assert_array_equal(np.flatnonzero(covered), filled)
    np.testing.assert_allclose(covered[covered > 0], 1)


def test_regridding_needs_one_frame():
    with pytest.raises(ValueError, match="shift the axis first"):
        regular().weights_onto(regular(frame="LSRK"))


def test_ranges_are_read_in_all_units():
    assert parse_ranges("0~9, 1.4~1.5GHz,-300~-120km/s") == (
        SpectralRange(0, 9, "chan"),
        SpectralRange(1.4e9, 1.5e9, "Hz"),
        SpectralRange(-3e5, -1.2e5, "m/s"),
    )


@pytest.mark.parametrize("text", ["", "5", "1~2parsec", "-3~4", "a~b", "0.5~2", "1..2~3Hz"])
def test_what_is_no_range_is_named(text):
    with pytest.raises(ParameterError, match="is no spectral range"):
        parse_ranges(text)


@pytest.mark.parametrize(
    ("ranges", "chosen"),
    [
        ("3~5,60~99", [3, 4, 5, 60, 61, 62, 63]),
        ("1400.02~1400.04MHz", [2, 3, 4]),
        ("-5~-1km/s", [1, 2]),  # a channel is 2.14 km/s; velocities fall with frequency
    ],
)
def test_selection_by_channels_frequency_and_velocity(ranges, chosen):
    selected = regular(rest_freq_hz=1.4e9).select(parse_ranges(ranges))
    np.testing.assert_array_equal(np.flatnonzero(selected), chosen)


def test_a_selection_of_nothing_is_refused():
    with pytest.raises(DataError, match=r"1400\.000000 and 1400\.630000 MHz \(TOPO\)"):
        regular().select(parse_ranges("1.5~1.6GHz"))


def test_shifting_to_lsrk_moves_the_selection():
    axis = regular(rest_freq_hz=1.4e9)
    moved = axis.shifted("LSRK", 1 + 3e4 / SPEED_OF_LIGHT_M_S)
    assert moved.frame == "LSRK"
    shift = moved.velocity_m_s() - axis.velocity_m_s()
    np.testing.assert_allclose(shift, -3e4, rtol=1e-3)
