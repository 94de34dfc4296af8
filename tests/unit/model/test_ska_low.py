"""The built-in layout against the published figures."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from batch_imaging.errors import ParameterError
from batch_imaging.model import ska_low
from batch_imaging.model.geometry import enu_from_itrf, geodetic_from_itrf, max_baseline_m


@pytest.fixture(scope="module")
def layout():
    return ska_low.ska1_low()


def test_counts_are_the_published_ones(layout):
    mean_m = layout.itrf_m.mean(axis=0)
    chord_m = np.linalg.norm(layout.itrf_m - mean_m, axis=1)
    east, north, _ = enu_from_itrf(layout.itrf_m, ska_low.SKA1_LOW_CENTRE).T
    published = [(100, 13), (300, 94), (750, 236), (1000, 251), (3000, 314), (10_000, 398)]
    for radius_m, count in published:
        assert (np.hypot(east, north) <= radius_m).sum() == count
        assert (ska_low.distance_from_centre_m(layout) <= radius_m).sum() == count
        if radius_m >= 1000:  # the mean stands 9 m below the core
            assert (chord_m <= radius_m).sum() == count
    assert len(layout) == len(set(layout.names)) == 512
    assert 30e3 < np.hypot(east, north).max() < 36e3


def test_mean_is_under_the_published_centre(layout):
    longitude, latitude, _ = geodetic_from_itrf(layout.reference_itrf_m)
    assert np.rad2deg(longitude) == pytest.approx(116.76444824, abs=1e-9)
    assert np.rad2deg(latitude) == pytest.approx(-26.824722084, abs=1e-9)


def test_stations_stand_on_the_ground(layout):
    _, _, height_m = geodetic_from_itrf(layout.itrf_m)
    np.testing.assert_allclose(height_m, 300, atol=1e-6)


def test_stations_do_not_overlap(layout):
    assert pdist(layout.itrf_m).min() >= ska_low.STATION_DIAMETER_M
    np.testing.assert_array_equal(layout.diameter_m, 38)


def test_layout_is_the_same_at_every_call(layout):
    again = ska_low.ska1_low()
    np.testing.assert_array_equal(again.itrf_m, layout.itrf_m)
    assert again.names == layout.names
    # Pinned to a centimetre: another draw would silently change every simulation.
    first, last = enu_from_itrf(layout.itrf_m, ska_low.SKA1_LOW_CENTRE)[[0, -1]]
    np.testing.assert_allclose(first, (4.854, 23.337, -0.000), atol=0.01)
    np.testing.assert_allclose(last, (29818.221, 14168.530, -85.461), atol=0.01)


def test_select_within_keeps_the_centre(layout):
    core = ska_low.select_within(layout, 750)
    assert len(core) == len(core.diameter_m) == 236
    assert core.array_name == layout.array_name
    assert max_baseline_m(core.itrf_m) < 1500
    # Names and positions stay together.
    for name, position in zip(core.names, core.itrf_m, strict=True):
        np.testing.assert_array_equal(position, layout.itrf_m[layout.names.index(name)])


@pytest.mark.parametrize("rmax_m", [0.0, 1.0, float("nan"), -5.0])
def test_too_few_stations_are_refused(layout, rmax_m):
    with pytest.raises(ParameterError, match=r"leaves [012] of the 512 stations.*set rmax to \d+"):
        ska_low.select_within(layout, rmax_m)


def test_the_advised_rmax_is_enough(layout):
    with pytest.raises(ParameterError) as refusal:
        ska_low.select_within(layout, 1.0)
    advised_m = float(str(refusal.value).split("set rmax to ")[1].split()[0])
    assert len(ska_low.select_within(layout, advised_m)) >= 3
