"""Parts of cubes as users name them."""

from pathlib import Path

import numpy as np
import pytest

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.pipelines.cubes.opening import beams_deg, open_cube, pixels
from batch_imaging.pipelines.cubes.selection import (
    Selection,
    parse_box,
    parse_range,
    parse_sky_box,
)

HERE = Path("cube.fits")
BEAMS = np.array([[60.0 - k, 30.0, 10.0] for k in range(7)])


def test_a_part_keeps_its_pixels_beams_and_coordinates(noise, write_fits, schedule):
    path = write_fits(noise, BEAMS)
    selection = Selection(freq_hz=(1.42e9 - 140e3, 1.42e9 - 40e3), box=(5, 20, 10, 12))
    part = open_cube(path, schedule(chunk=(1, 1, 7)), selection=selection)
    np.testing.assert_array_equal(pixels(part).compute(), noise[1:3, 10:12, 5:20])
    np.testing.assert_allclose(3600 * beams_deg(part)[:, 0], BEAMS[1:3, 0], rtol=1e-6)
    whole = open_cube(path, schedule())
    assert part.spectral_axis[0] == whole.spectral_axis[1]
    here, there = part.wcs.celestial, whole.wcs.celestial
    assert here.pixel_to_world(1, 1).separation(there.pixel_to_world(6, 11)).arcsec < 1e-6


def test_velocities_and_boxes_on_the_sky(noise, opened):
    cube = opened(noise)
    place = Selection(
        velocity_km_s=(20.0, 35.0), sky_box=parse_sky_box("40 -29.98,40arcsec,20arcsec")
    ).place(cube, HERE)
    assert place[0] == slice(2, 4)
    assert place[1] == slice(7, 9)
    assert place[2] == slice(0, 2)


@pytest.mark.parametrize(
    ("selection", "complaint"),
    [
        (Selection(channels=(3, 9)), "channels 3:9 are not within 0:7"),
        (Selection(freq_hz=(1e9, 2e8)), "its channels go from 1.4197e.09 to 1.42e.09 Hz"),
        (Selection(box=(50, 60, 0, 5)), "outside its 40 columns and 30 rows"),
    ],
)
def test_nothing_selected_says_what_there_is(noise, opened, selection, complaint):
    with pytest.raises(DataError, match=complaint):
        selection.place(opened(noise), HERE)


def test_what_users_write():
    assert parse_range("1.40GHz:1.43GHz", "Hz", "--freq") == pytest.approx((1.40e9, 1.43e9))
    assert parse_range("-50:5e4m/s", "km/s", "--velocity") == (-50, 50)
    assert parse_box("0:100,50:150") == (0, 100, 50, 150)
    for parse, text in ((parse_box, "1:2"), (parse_sky_box, "40 -30")):
        with pytest.raises(ParameterError, match="give"):
            parse(text)
    with pytest.raises(ParameterError, match=r"--freq 1m:2m"):
        parse_range("1m:2m", "Hz", "--freq")
