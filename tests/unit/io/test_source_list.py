"""WSClean's source lists: what is read, what is written, what is refused."""

import numpy as np
import pytest

from batch_imaging.errors import DataError, ProductError
from batch_imaging.io.source_list import is_source_list, read_source_list, write_source_list
from batch_imaging.model.sky import (
    PolynomialSpectrum,
    PowerLaw,
    SkyComponent,
    SkyModel,
    TabulatedSpectrum,
)

HEADER = (
    "Format = Name, Type, Ra, Dec, I, SpectralIndex, LogarithmicSI, "
    "ReferenceFrequency='150000000', MajorAxis, MinorAxis, Orientation"
)


@pytest.fixture
def write(tmp_path):
    def write(*lines, header=HEADER):
        path = tmp_path / "sources.txt"
        path.write_text("\n".join([header, "", *lines]) + "\n")
        return path

    return write


def test_points_gaussians_and_both_kinds_of_spectra(write):
    path = write(
        "# a comment",
        "s0,POINT,08:28:05.152,39.35.08.5,2.0,[-0.5,0.25],false,125000000,,,",
        "s1,GAUSSIAN,-01:00:00,-00.30.00,4,[-0.7,0.1],true,,36,18,90",
    )
    point, gaussian = read_source_list(path).components
    assert np.rad2deg(point.ra_rad) == pytest.approx((8 + 28 / 60 + 5.152 / 3600) * 15)
    assert np.rad2deg(point.dec_rad) == pytest.approx(39 + 35 / 60 + 8.5 / 3600)
    assert point.bmaj_rad == 0
    assert point.spectrum.flux_jy(150e6) == pytest.approx(2 - 0.5 * 0.2 + 0.25 * 0.04)
    assert np.rad2deg(gaussian.ra_rad) == pytest.approx(345)
    assert np.rad2deg(gaussian.dec_rad) == pytest.approx(-0.5)
    assert np.rad2deg(gaussian.bmaj_rad) * 3600 == pytest.approx(36)
    assert gaussian.bpa_rad == pytest.approx(np.pi / 2)
    log_x = np.log10(180 / 150)
    expected = 4 * 10 ** (-0.7 * log_x + 0.1 * log_x**2)
    assert gaussian.spectrum.flux_jy(180e6) == pytest.approx(expected)


def test_written_components_are_read_back(tmp_path):
    sky = SkyModel(
        (
            SkyComponent("a", 0.1, -1.2, PolynomialSpectrum(-0.3, 1.5e8, (0.1, -0.2), False)),
            SkyComponent("b", 6.2, 0.0, PowerLaw(2.0, 1e8, -0.8, 0.05), 2e-4, 1e-4, 0.3),
        )
    )
    path = tmp_path / "out.txt"
    write_source_list(path, sky)
    assert is_source_list(path)
    back = read_source_list(path)
    freq_hz = np.array([1e8, 1.4e8, 2e8])
    np.testing.assert_allclose(back.flux_jy(freq_hz), sky.flux_jy(freq_hz), rtol=1e-14)
    for got, expected in zip(back.components, sky.components, strict=True):
        for name in ("ra_rad", "dec_rad", "bmaj_rad", "bmin_rad", "bpa_rad"):
            assert getattr(got, name) == pytest.approx(getattr(expected, name), abs=1e-14)
        assert got.name == expected.name


def test_a_spectrum_without_a_form_is_refused(tmp_path):
    sky = SkyModel((SkyComponent("t", 0, 0, TabulatedSpectrum((1e8, 2e8), (1.0, 2.0))),))
    with pytest.raises(ProductError, match="write a catalogue"):
        write_source_list(tmp_path / "t.txt", sky)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("s,SHAPELET,1:2:3,4.5.6,1,[],true,,,,", "neither POINT nor GAUSSIAN"),
        ("s,POINT,1:99:3,4.5.6,1,[],true,,,,", "ra = '1:99:3'"),
        ("s,POINT,1:2:3,4,1,[],true,,,,", "dec = '4'"),
        ("s,POINT,1:2:3,4.5.6,nan,[],true,,,,", "not finite"),
        ("s,POINT,1:2:3,4.5.6,1,[x],true,,,,", "spectralindex"),
        ("s,POINT,1:2:3,4.5.6,1,[],maybe,,,,", "neither true nor false"),
        ("s,GAUSSIAN,1:2:3,4.5.6,1,[],true,,1,2,0", "minor ≤ major"),
        ("s,GAUSSIAN,1:2:3,4.5.6,1,[],true,,,,", "majoraxis"),
        ("s,POINT,1:2:3,4.5.6,1,[],true,,,,,9", "12 values for 11 columns"),
    ],
)
def test_a_wrong_line_is_named(write, line, reason):
    path = write("ok,POINT,1:2:3,4.5.6,1,[],true,,,,", line)
    with pytest.raises(DataError, match=r"sources\.txt, line 4: .*" + reason):
        read_source_list(path)


def test_what_is_no_list_is_refused(write, tmp_path):
    with pytest.raises(DataError, match="lacks type, ra, dec, i"):
        read_source_list(write(header="Format = Name"))
    with pytest.raises(DataError, match="before the line"):
        read_source_list(write(header="s,POINT"))
    with pytest.raises(DataError, match="has no components"):
        read_source_list(write())
    with pytest.raises(DataError, match="cannot be read"):
        read_source_list(tmp_path / "none.txt")
    assert not is_source_list(tmp_path / "none.txt")
