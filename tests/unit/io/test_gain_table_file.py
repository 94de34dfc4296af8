"""Gain tables: what is written comes back bit by bit, and astropy alone can read it."""

from dataclasses import fields, replace

import numpy as np
import pytest
from astropy.io import fits

from batch_imaging.errors import DataError, ProductError
from batch_imaging.io.gain_table_file import read_gain_table, write_gain_table
from batch_imaging.model.gains import GainTable


def gain_table(n_time=5, n_station=7, n_chan=3, corr=("XX", "YY")):
    rng = np.random.default_rng(3)
    shape = (n_time, n_station, n_chan, len(corr))
    return GainTable(
        gain=rng.normal(size=shape) + 1j * rng.normal(size=shape),
        weight=rng.random(shape) * (rng.random(shape) > 0.2),
        time_mjd_s=58992.5 * 86400 + 0.1 * np.arange(n_time),
        interval_s=np.full(n_time, 0.1),
        freq_hz=1e8 + 1e6 / 3 * np.arange(n_chan),
        corr=corr,
        station_names=tuple(f"C{i:0{i}d}" for i in range(1, n_station + 1)),
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gains.fits"


@pytest.mark.parametrize(
    "table", [gain_table(), gain_table(1, 1, 1, ("I",))], ids=["full", "one gain"]
)
def test_round_trip_is_exact(path, table):
    write_gain_table(path, table)
    read = read_gain_table(path)
    for field in fields(GainTable):
        given, got = getattr(table, field.name), getattr(read, field.name)
        np.testing.assert_array_equal(got, given, strict=not isinstance(given, tuple))
    assert isinstance(read.corr, tuple)
    assert read.gain.dtype.isnative
    assert list(path.parent.iterdir()) == [path]


def test_astropy_alone_reads_it(path):
    table = gain_table()
    write_gain_table(path, table)
    with fits.open(path) as hdus:
        hdus.verify("exception")
        gain = hdus["GAIN_REAL"].data + 1j * hdus["GAIN_IMAG"].data
        names = [hdus["GAIN_REAL"].header[f"CTYPE{i}"] for i in (1, 2, 3, 4)]
        station = list(hdus["STATION"].data["NAME"]).index("C0004")
        assert hdus["TIME"].columns["INTERVAL"].unit == "s"
    assert names == ["CORR", "CHAN", "STATION", "TIME"]
    assert gain[2, station, 1, 0] == table.gain[2, 3, 1, 0]


def test_equal_tables_give_equal_bytes(tmp_path):
    for name in ("a.fits", "b.fits"):
        write_gain_table(tmp_path / name, gain_table())
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


def test_axes_that_disagree_are_refused_and_the_older_file_stays(path):
    write_gain_table(path, gain_table())
    before = path.read_bytes()
    with pytest.raises(ProductError, match=r"gain has shape \(5, 7, 3, 2\), its axes say"):
        write_gain_table(path, replace(gain_table(), freq_hz=np.array([1e8])))
    with pytest.raises(ProductError, match="weight"):
        write_gain_table(path, replace(gain_table(), weight=np.ones((5, 7, 3, 1))))
    assert path.read_bytes() == before


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(ProductError, match="absent"):
        write_gain_table(tmp_path / "absent" / "gains.fits", gain_table())


def test_other_files_are_refused(path):
    with pytest.raises(DataError, match=r"gains\.fits: cannot be read as a gain table"):
        read_gain_table(path)
    fits.PrimaryHDU().writeto(path)
    with pytest.raises(DataError, match="GAIN_REAL"):
        read_gain_table(path)


def test_axes_changed_by_hand_are_noticed(path):
    write_gain_table(path, gain_table())
    with fits.open(path, mode="update") as hdus:
        hdus["FREQ"].data = hdus["FREQ"].data[:1]
    with pytest.raises(DataError, match=r"tables describe \(5, 7, 1, 2\)"):
        read_gain_table(path)
