"""Position files of every kind that is read, and every kind that is refused."""

import numpy as np
import pytest

from batch_imaging.errors import DataError
from batch_imaging.io.station_file import read_station_file
from batch_imaging.model.geometry import GeodeticPosition, enu_from_itrf, itrf_from_enu
from batch_imaging.model.ska_low import SKA1_LOW_CENTRE, distance_from_centre_m, ska1_low

EAST_NORTH_M = np.array([[0.0, 0.0], [120.5, -3.25], [-7.0, 900.0]])


@pytest.fixture
def write(tmp_path):
    def write_text(text, name="layout.txt"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


def local_m(layout, reference=SKA1_LOW_CENTRE):
    return enu_from_itrf(layout.itrf_m, reference)


@pytest.mark.parametrize(
    "text",
    [
        "0,0\n120.5,-3.25\n-7,900\n",
        "# east, north\n\n0 0\n120.5\t-3.25   # a remark\n  -7 900\n",
        "east (m), north (m)\n0, 0\n120.5, -3.25\n-7, 9e2\n",
        "x;y;z\n0;0;0\n120.5;-3.25;0\n-7;900;0\n",
        "\ufeff0,0\r\n120.5,-3.25\r\n-7,900",
    ],
)
def test_local_positions(write, text):
    layout = read_station_file(write(text))
    expected = np.column_stack([EAST_NORTH_M, np.zeros(3)])
    np.testing.assert_allclose(local_m(layout), expected, atol=1e-6)
    assert layout.names == ("S001", "S002", "S003")
    assert layout.array_name == "layout"
    np.testing.assert_array_equal(layout.diameter_m, 38)


@pytest.mark.parametrize(
    "text",
    [
        "name,east,north,up\nC1,0,0,1\nC2,120.5,-3.25,2\nE9-3,-7,900,3\n",
        "0 0 1 C1\n120.5 -3.25 2 'C2'\n-7 900 3 E9-3\n",
    ],
)
def test_names_and_heights(write, text):
    layout = read_station_file(write(text), array_name="AAVS", diameter_m=35.0)
    assert layout.names == ("C1", "C2", "E9-3")
    np.testing.assert_allclose(local_m(layout)[:, 2], [1, 2, 3], atol=1e-6)
    assert layout.array_name == "AAVS"
    np.testing.assert_array_equal(layout.diameter_m, 35)


def test_another_reference(write):
    mwa = GeodeticPosition.from_degrees(116.67, -26.70, 377.0)
    layout = read_station_file(write("0 0\n120.5 -3.25\n-7 900\n"), reference=mwa)
    np.testing.assert_allclose(local_m(layout, mwa)[:, :2], EAST_NORTH_M, atol=1e-6)


def test_geocentric_positions_are_recognised(write):
    itrf_m = itrf_from_enu(np.column_stack([EAST_NORTH_M, np.zeros(3)]), SKA1_LOW_CENTRE)
    lines = "\n".join(",".join(repr(float(value)) for value in row) for row in itrf_m)
    layout = read_station_file(write("x,y,z\n" + lines))
    np.testing.assert_array_equal(layout.itrf_m, itrf_m)


def test_written_layouts_are_read_back(write):
    layout = ska1_low()
    lines = [
        f"{name} {' '.join(repr(float(value)) for value in position)}"
        for name, position in zip(layout.names, layout.itrf_m, strict=True)
    ]
    again = read_station_file(write("\n".join(lines)))
    np.testing.assert_array_equal(again.itrf_m, layout.itrf_m)
    assert again.names == layout.names


def test_the_published_layout(shared_data):
    layout = read_station_file(shared_data / "LOWBD2.csv")
    assert len(layout) == 512
    distance_m = distance_from_centre_m(layout)
    counts = [(distance_m <= r).sum() for r in (100, 300, 750, 1000, 3000, 10_000)]
    assert counts == [13, 94, 236, 251, 314, 398]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,0\n1,2\n3,abc,4\n", r"layout\.txt, line 3: “3 abc 4” is no station"),
        ("0,0\n\n1,2\nA,B,C\n", "line 4: “A B C” is no station"),
        ("0,0\n1,2\n3\n", "line 3: “3” is no station"),
        ("0 0 0 0\n1 1 1 1\n2 2 2 2\n", "line 1: .* is no station"),
        ("0,0\n1,,2\n3,4\n", "line 2: .* is no station"),
        ("0,0\n1,nan\n3,4\n", "line 2: the position .* is not finite"),
        ("0,0\n1,inf\n3,4\n", "line 2: the position .* is not finite"),
        ("0,0\n1,1\n3,4,5\n", "line 3: 3 coordinates where line 1 has 2"),
        ("0,0\n1,1\n2,2\n1.0,1.00\n", "line 4: the same position as on line 2"),
        ("A 0 0\nB 1 1\nA 2 2\n", "line 3: the name A is on line 1 already"),
        ("0,0\n1,1\n", "2 stations; at least three"),
        ("# nothing\n", "0 stations"),
        ("0 0 0\n1 1 1\n-2565018.3 5085711.9 -2861033.1\n", "line 3: geocentric and local"),
    ],
)
def test_unusable_files_are_refused(write, text, message):
    with pytest.raises(DataError, match=message):
        read_station_file(write(text))


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"absent\.txt: station positions cannot be read"):
        read_station_file(tmp_path / "absent.txt")
    binary = tmp_path / "layout.npy"
    binary.write_bytes(b"\x93NUMPY\xff\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_station_file(binary)
