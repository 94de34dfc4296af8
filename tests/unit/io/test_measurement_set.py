"""Measurement Sets: read back by casacore alone, by our reader, and by DP3."""

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from casacore.tables import default_ms, makescacoldesc, table, taql

from batch_imaging.errors import DataError, ProductError
from batch_imaging.io.measurement_set import (
    describe_measurement_set,
    read_measurement_set,
    write_measurement_set,
)
from batch_imaging.model.direction import Direction, lmn_from_radec
from batch_imaging.model.geometry import station_uvw_m
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility

N_STATIONS, N_TIMES, N_CHAN = 6, 3, 4
START_MJD_S = 59_025.0 * 86_400


def make_block(
    n_stations=N_STATIONS, corr=("XX", "YY"), n_chan=N_CHAN, chan_width_hz=1e6
) -> Visibility:
    rng = np.random.default_rng(180555)
    position_m = np.array([-2565018.0, 5085713.0, -2861052.0])
    stations = StationLayout(
        names=tuple(f"S{i:03d}" for i in range(n_stations)),
        itrf_m=position_m + rng.normal(0, 400, (n_stations, 3)),
        diameter_m=np.full(n_stations, 38.0),
        array_name="MWA",  # an observatory that casacore knows and that stands where ours does
    )
    first, second = np.triu_indices(n_stations, 1)
    n_rows = len(first) * N_TIMES
    times = START_MJD_S + 60.0 * np.arange(N_TIMES)
    centre = Direction.from_degrees(201.4, -30.5)
    shape = (n_rows, n_chan, len(corr))
    stations_m = station_uvw_m(stations.itrf_m, times, centre)
    return Visibility(
        uvw_m=(stations_m[:, second] - stations_m[:, first]).reshape(-1, 3),
        time_mjd_s=np.repeat(times, len(first)),
        antenna1=np.tile(first, N_TIMES).astype(np.int32),
        antenna2=np.tile(second, N_TIMES).astype(np.int32),
        vis=(rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64),
        weight=np.repeat(rng.uniform(0.5, 2, (n_rows, 1, len(corr))), n_chan, axis=1).astype("f4"),
        freq_hz=1e8 + chan_width_hz * np.arange(n_chan),
        chan_width_hz=np.full(n_chan, abs(chan_width_hz)),
        corr=corr,
        integration_s=60.0,
        phase_centre=centre,
        stations=stations,
        field_name="three C",
    )


@pytest.fixture
def block():
    return make_block()


@pytest.fixture
def path(tmp_path, block):
    write_measurement_set(tmp_path / "a.ms", block)
    return tmp_path / "a.ms"


def edit(path, column, values, *, subtable="", rows=slice(None)):
    """Change a column with casacore alone."""
    with table(str(path / subtable), readonly=False, ack=False) as t:
        cells = t.getcol(column)
        cells[rows] = values
        t.putcol(column, cells)


def assert_same_block(got, expected):
    for name in ("uvw_m", "time_mjd_s", "antenna1", "antenna2", "vis", "weight", "freq_hz"):
        left, right = getattr(got, name), getattr(expected, name)
        np.testing.assert_array_equal(left, right, err_msg=name)
        assert left.dtype == right.dtype, name
    np.testing.assert_array_equal(got.chan_width_hz, expected.chan_width_hz)
    np.testing.assert_array_equal(got.stations.itrf_m, expected.stations.itrf_m)
    assert got.stations.names == expected.stations.names
    for name in ("corr", "integration_s", "phase_centre", "field_name"):
        assert getattr(got, name) == getattr(expected, name)


# --------------------------------------------------------------------- what casacore alone sees


def test_main_table(path, block):
    with table(str(path), ack=False) as t:
        assert t.getkeyword("MS_VERSION") == 2.0
        np.testing.assert_array_equal(t.getcol("DATA"), block.vis.conj())
        np.testing.assert_array_equal(t.getcol("UVW"), block.uvw_m)
        np.testing.assert_allclose(t.getcol("WEIGHT"), block.weight[:, 0], rtol=1e-6)
        np.testing.assert_allclose(t.getcol("SIGMA"), block.weight[:, 0] ** -0.5, rtol=1e-6)
        for column in ("TIME", "TIME_CENTROID"):
            np.testing.assert_array_equal(t.getcol(column), block.time_mjd_s)
        for column in ("INTERVAL", "EXPOSURE"):
            assert set(t.getcol(column)) == {60.0}
        assert not t.getcol("FLAG").any()
        assert not t.getcol("FLAG_ROW").any()
        for column in ("FIELD_ID", "DATA_DESC_ID", "STATE_ID", "OBSERVATION_ID", "PROCESSOR_ID"):
            assert set(t.getcol(column)) == {0}
        assert "WEIGHT_SPECTRUM" not in t.colnames()
        assert t.getcolkeyword("TIME", "MEASINFO") == {"type": "epoch", "Ref": "UTC"}


def test_station_positions_and_receptors(path, block):
    with table(f"{path}/ANTENNA", ack=False) as t:
        assert np.abs(t.getcol("POSITION") - block.stations.itrf_m).max() < 1e-3
        assert t.getcolkeyword("POSITION", "MEASINFO")["Ref"] == "ITRF"
        assert tuple(t.getcol("NAME")) == block.stations.names
        assert set(t.getcol("DISH_DIAMETER")) == {38.0}
        assert set(t.getcol("TYPE")) == {"GROUND-BASED"}
    with table(f"{path}/FEED", ack=False) as t:
        np.testing.assert_array_equal(t.getcol("ANTENNA_ID"), np.arange(N_STATIONS))
        assert t.getcell("POLARIZATION_TYPE", 3) == ["X", "Y"]
        np.testing.assert_array_equal(t.getcell("POL_RESPONSE", 3), np.eye(2))


def test_frequencies_and_correlations(path, block):
    with table(f"{path}/SPECTRAL_WINDOW", ack=False) as t:
        assert t.nrows() == 1
        np.testing.assert_array_equal(t.getcell("CHAN_FREQ", 0), block.freq_hz)
        for column in ("CHAN_WIDTH", "EFFECTIVE_BW", "RESOLUTION"):
            np.testing.assert_array_equal(t.getcell(column, 0), np.full(N_CHAN, 1e6))
        assert t.getcell("NUM_CHAN", 0) == N_CHAN
        assert t.getcell("REF_FREQUENCY", 0) == 101.5e6
        assert t.getcell("TOTAL_BANDWIDTH", 0) == 4e6
        measure = t.getcolkeyword("CHAN_FREQ", "MEASINFO")
        names = dict(zip(measure["TabRefCodes"], measure["TabRefTypes"], strict=True))
        assert names[t.getcell("MEAS_FREQ_REF", 0)] == "TOPO"
    with table(f"{path}/POLARIZATION", ack=False) as t:
        np.testing.assert_array_equal(t.getcell("CORR_TYPE", 0), [9, 12])
        np.testing.assert_array_equal(t.getcell("CORR_PRODUCT", 0), [[0, 0], [1, 1]])
    with table(f"{path}/DATA_DESCRIPTION", ack=False) as t:
        assert (t.getcell("SPECTRAL_WINDOW_ID", 0), t.getcell("POLARIZATION_ID", 0)) == (0, 0)


def test_directions_are_icrs(path, block):
    expected = [block.phase_centre.ra_rad, block.phase_centre.dec_rad]
    with table(f"{path}/FIELD", ack=False) as t:
        assert t.getcell("NAME", 0) == "three C"
        for column in ("PHASE_DIR", "DELAY_DIR", "REFERENCE_DIR"):
            np.testing.assert_array_equal(t.getcell(column, 0), [expected])
            assert t.getcolkeyword(column, "MEASINFO") == {"type": "direction", "Ref": "ICRS"}
    with table(f"{path}/SOURCE", ack=False) as t:
        np.testing.assert_array_equal(t.getcell("DIRECTION", 0), expected)
        assert t.getcolkeyword("DIRECTION", "MEASINFO")["Ref"] == "ICRS"


def test_observation(tmp_path, block):
    names = {"observer": "Ada", "project": "P1", "execution_block": "eb-t0001-20200523-00001"}
    write_measurement_set(tmp_path / "a.ms", block, **names)
    with table(f"{tmp_path}/a.ms/OBSERVATION", ack=False) as t:
        assert t.getcell("TELESCOPE_NAME", 0) == "MWA"
        assert (t.getcell("OBSERVER", 0), t.getcell("PROJECT", 0)) == ("Ada", "P1")
        assert t.getcell("SCHEDULE", 0) == ["ExecBlock eb-t0001-20200523-00001"]
        begin, end = t.getcell("TIME_RANGE", 0)
    assert (begin, end) == (START_MJD_S - 30, START_MJD_S + 120 + 30)


def test_every_required_subtable_is_there_and_moves_with_the_set(path):
    moved = path.rename(path.with_name("moved.ms"))
    with table(str(moved), ack=False) as t:
        subtables = {name: t.getkeyword(name) for name in t.keywordnames() if name != "MS_VERSION"}
    rows = {}
    for name, place in subtables.items():
        assert "moved.ms" in place
        with table(place, ack=False) as t:
            rows[name] = t.nrows()
    one = ("DATA_DESCRIPTION", "FIELD", "HISTORY", "OBSERVATION", "POLARIZATION", "PROCESSOR")
    one = (*one, "SOURCE", "SPECTRAL_WINDOW", "STATE")
    expected = {"ANTENNA": N_STATIONS, "FEED": N_STATIONS, "FLAG_CMD": 0, "POINTING": 0}
    assert rows == {**dict.fromkeys(one, 1), **expected}


def test_casacore_computes_the_same_uvw_from_positions_times_and_phase_centre(path, block):
    """Right only if positions, times, phase centre, frames and the sense of a baseline all are."""
    with taql("select mscal.uvwj2000() as UVW from $1", tables=[table(str(path), ack=False)]) as t:
        computed = t.getcol("UVW")
    # casacore adds aberration, which turns the field by up to 1e-4 rad; lengths are near 1 km.
    np.testing.assert_allclose(block.uvw_m, computed, atol=0.15)


def test_flags_and_weights_are_written(tmp_path, block):
    weight, vis = block.weight.copy(), block.vis.copy()
    weight[0, 1, 0] = 0
    weight[1] = 0
    vis[2, 2, 1] = complex(np.nan, 1)
    weight[3, :, 0] = [1, 2, 3, 4]
    write_measurement_set(tmp_path / "a.ms", replace(block, weight=weight, vis=vis))
    expected = np.zeros(vis.shape, bool)
    expected[0, 1, 0] = expected[1] = expected[2, 2, 1] = True
    with table(f"{tmp_path}/a.ms", ack=False) as t:
        np.testing.assert_array_equal(t.getcol("FLAG"), expected)
        np.testing.assert_array_equal(np.flatnonzero(t.getcol("FLAG_ROW")), [1])
        assert np.isfinite(t.getcol("DATA")).all()
        np.testing.assert_array_equal(
            t.getcol("WEIGHT_SPECTRUM"), np.where(expected, 0, weight).astype("f4")
        )
        assert t.getcell("WEIGHT", 0)[0] == weight[0, 0, 0]  # the flagged channel does not count
        assert t.getcell("WEIGHT", 3)[0] == 2.5
        assert t.getcell("SIGMA", 3)[0] == np.float32(2.5**-0.5)
        np.testing.assert_array_equal(t.getcell("WEIGHT", 1), [0, 0])
        np.testing.assert_array_equal(t.getcell("SIGMA", 1), [-1, -1])


def test_flags_without_other_differences_need_no_weight_spectrum(tmp_path, block):
    weight = block.weight.copy()
    weight[::2, 1] = 0
    write_measurement_set(tmp_path / "a.ms", replace(block, weight=weight))
    with table(f"{tmp_path}/a.ms", ack=False) as t:
        assert "WEIGHT_SPECTRUM" not in t.colnames()


# ------------------------------------------------------------------------------------ replacing


def test_a_set_of_the_same_name_is_replaced(path, block):
    other = replace(block, field_name="other", vis=block.vis * 2)
    write_measurement_set(path, other)
    assert_same_block(read_measurement_set(path), other)
    assert [p.name for p in path.parent.iterdir()] == ["a.ms"]


def test_a_failing_write_leaves_the_old_set_and_nothing_else(path, block):
    # MAIN is written when the number of diameters turns out not to be that of the stations.
    broken = replace(block, stations=replace(block.stations, diameter_m=np.ones(N_STATIONS + 1)))
    with pytest.raises(ProductError, match=r"a\.ms: cannot be written"):
        write_measurement_set(path, broken)
    assert [p.name for p in path.parent.iterdir()] == ["a.ms"]
    assert_same_block(read_measurement_set(path), block)


def test_an_error_of_the_program_leaves_nothing_half_written(tmp_path, block):
    with pytest.raises(KeyError, match="ZZ"):
        write_measurement_set(tmp_path / "b.ms", replace(block, corr=("XX", "ZZ")))
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_write_do_not_matter(path, block):
    for name in ("a.ms.partial", "a.ms.replaced"):
        shutil.copytree(path, path.with_name(name))
    write_measurement_set(path, block)
    assert [p.name for p in path.parent.iterdir()] == ["a.ms"]


def test_what_is_no_measurement_set_is_not_replaced(tmp_path, block):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").touch()
    with pytest.raises(ProductError, match="other than a Measurement Set"):
        write_measurement_set(tmp_path / "precious", block)
    assert (tmp_path / "precious" / "thesis.tex").exists()


def test_no_folder_to_write_to(tmp_path, block):
    with pytest.raises(ProductError, match="cannot be written"):
        write_measurement_set(tmp_path / "absent" / "a.ms", block)


# -------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("corr", [("XX", "YY"), ("RR", "LL"), ("I",), ("YY",)])
def test_round_trip(tmp_path, corr):
    block = make_block(corr=corr)
    write_measurement_set(tmp_path / "a.ms", block)
    assert_same_block(read_measurement_set(tmp_path / "a.ms"), block)


def test_round_trip_of_weights_by_channel_and_flags(tmp_path, block):
    rng = np.random.default_rng(1)
    weight = rng.uniform(-0.3, 1, block.vis.shape).clip(0).astype(np.float32)
    block = replace(block, weight=weight, vis=np.where(weight > 0, block.vis, np.complex64(0)))
    write_measurement_set(tmp_path / "a.ms", block)
    assert_same_block(read_measurement_set(tmp_path / "a.ms"), block)


def test_descending_frequencies(tmp_path):
    block = make_block(chan_width_hz=-2e6)
    write_measurement_set(tmp_path / "a.ms", block)
    with table(f"{tmp_path}/a.ms/SPECTRAL_WINDOW", ack=False) as t:
        assert set(t.getcell("CHAN_WIDTH", 0)) == {-2e6}
    assert_same_block(read_measurement_set(tmp_path / "a.ms"), block)


def test_cross_hands_are_left_out(tmp_path):
    block = make_block(corr=("XX", "XY", "YX", "YY"))
    write_measurement_set(tmp_path / "a.ms", block)
    with table(f"{tmp_path}/a.ms/POLARIZATION", ack=False) as t:
        np.testing.assert_array_equal(
            t.getcell("CORR_PRODUCT", 0), [[0, 0], [0, 1], [1, 0], [1, 1]]
        )
    got = read_measurement_set(tmp_path / "a.ms")
    assert got.corr == ("XX", "YY")
    np.testing.assert_array_equal(got.vis, block.vis[:, :, [0, 3]])
    np.testing.assert_array_equal(got.weight, block.weight[:, :, [0, 3]])


def test_flags_and_odd_values_become_zero(path, block):
    with table(str(path), readonly=False, ack=False) as t:
        flag, data, weight, uvw = (t.getcol(c) for c in ("FLAG", "DATA", "WEIGHT", "UVW"))
        flag[0, 2, 1] = True
        data[2, 0, 0] = np.inf
        data[2, 1, 1] = complex(0, np.nan)
        weight[3, 0], weight[4, 1], weight[5, 0], weight[6, 1] = -1, np.nan, np.inf, 0
        uvw[7, 2] = np.nan
        uvw[8] = 0
        for column, cells in (("FLAG", flag), ("DATA", data), ("WEIGHT", weight), ("UVW", uvw)):
            t.putcol(column, cells)
        t.putcell("FLAG_ROW", 1, True)
    bad = np.zeros(block.vis.shape, bool)
    bad[0, 2, 1] = bad[1] = bad[2, 0, 0] = bad[2, 1, 1] = bad[7] = bad[8] = True
    bad[3, :, 0] = bad[4, :, 1] = bad[5, :, 0] = bad[6, :, 1] = True
    got = read_measurement_set(path)
    np.testing.assert_array_equal(got.vis, np.where(bad, 0, block.vis))
    np.testing.assert_array_equal(got.weight, np.where(bad, 0, block.weight))
    np.testing.assert_array_equal(got.uvw_m[7], 0)


def test_autocorrelations_are_left_out_and_swapped_antennas_stay(path, block):
    edit(path, "ANTENNA2", block.antenna1[4], rows=4)
    edit(path, "ANTENNA1", block.antenna2[5], rows=5)
    edit(path, "ANTENNA2", block.antenna1[5], rows=5)
    got = read_measurement_set(path)
    assert got.n_rows == block.n_rows - 1
    assert got.antenna1[4] == block.antenna2[5] > got.antenna2[4]
    np.testing.assert_array_equal(got.vis, np.delete(block.vis, 4, axis=0))


def test_rows_in_any_order_come_sorted_by_time(tmp_path, block):
    by_baseline = np.arange(block.n_rows).reshape(N_TIMES, -1).T.ravel()
    columns = ("uvw_m", "time_mjd_s", "antenna1", "antenna2", "vis", "weight")
    shuffled = replace(block, **{name: getattr(block, name)[by_baseline] for name in columns})
    write_measurement_set(tmp_path / "a.ms", shuffled)
    assert_same_block(read_measurement_set(tmp_path / "a.ms"), block)
    for i in range(N_TIMES):  # few rows far apart: another way of reading
        part = read_measurement_set(tmp_path / "a.ms", integrations=slice(i, i + 1))
        rows = slice(i * 15, (i + 1) * 15)
        np.testing.assert_array_equal(part.vis, block.vis[rows])
        np.testing.assert_array_equal(part.uvw_m, block.uvw_m[rows])


@pytest.mark.parametrize(
    "channels", [slice(1, 3), slice(3, 4), slice(None, None, 2), slice(-1, None)]
)
def test_channels(path, block, channels):
    got = read_measurement_set(path, channels=channels)
    np.testing.assert_array_equal(got.vis, block.vis[:, channels])
    np.testing.assert_array_equal(got.weight, block.weight[:, channels])
    np.testing.assert_array_equal(got.freq_hz, block.freq_hz[channels])
    assert len(got.chan_width_hz) == len(got.freq_hz)


@pytest.mark.parametrize("integrations", [slice(1, 2), slice(None, None, 2), slice(-2, None)])
def test_integrations(path, block, integrations):
    rows = np.arange(block.n_rows).reshape(N_TIMES, -1)[integrations].ravel()
    got = read_measurement_set(path, integrations=integrations)
    np.testing.assert_array_equal(got.vis, block.vis[rows])
    np.testing.assert_array_equal(got.time_mjd_s, block.time_mjd_s[rows])


def test_description(path, block):
    info = describe_measurement_set(path)
    assert (info.n_rows, info.n_integrations, info.n_baselines) == (45, 3, 15)
    assert info.time_range_mjd_s == (START_MJD_S - 30, START_MJD_S + 150)
    assert info.integration_s == 60
    np.testing.assert_array_equal(info.freq_hz, block.freq_hz)
    assert (info.stored_corr, info.corr) == (("XX", "YY"), ("XX", "YY"))
    assert (info.phase_centre, info.field_name) == (block.phase_centre, "three C")
    assert info.stations.array_name == "MWA"
    assert info.max_uv_m == pytest.approx(np.hypot(*block.uvw_m[:, :2].T).max())
    assert info.data_columns == ("DATA",)


def test_unused_fields_and_windows_do_not_matter(path, block):
    for subtable in ("FIELD", "SPECTRAL_WINDOW", "DATA_DESCRIPTION"):
        with table(f"{path}/{subtable}", readonly=False, ack=False) as t:
            t.addrows(1)
    assert_same_block(read_measurement_set(path), block)


# ------------------------------------------------------------------------------------- refusals


def refuse(path, match, **arguments):
    with pytest.raises(DataError, match=match) as caught:
        read_measurement_set(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")


def test_refuses_what_is_no_set(tmp_path, path):
    refuse(tmp_path / "absent.ms", "no such folder")
    (tmp_path / "folder").mkdir()
    refuse(tmp_path / "folder", "cannot be read as a Measurement Set")
    refuse(path / "FIELD", "no Measurement Set")
    (path / "table.f1_TSM0").unlink()
    refuse(path, "cannot be read as a Measurement Set")


@pytest.mark.parametrize(
    ("column", "match"),
    [("FIELD_ID", "2 fields.*field='0'"), ("DATA_DESC_ID", "2 spectral windows.*spw='0'")],
)
def test_refuses_several_fields_or_windows(path, column, match):
    edit(path, column, 1, rows=slice(0, 5))
    refuse(path, match)


def test_refuses_an_absent_column(path):
    refuse(path, "no column CORRECTED_DATA.*there is DATA", column="CORRECTED_DATA")
    refuse(path, "no column UVW", column="UVW")


def test_refuses_data_that_cannot_be_imaged(path, block):
    edit(path, "FLAG", True)
    refuse(path, "all samples")
    assert not read_measurement_set(path, allow_all_flagged=True).weight.any()
    edit(path, "UVW", 0.0)
    refuse(path, "all UVW are zero")
    edit(path, "ANTENNA2", block.antenna1)
    refuse(path, "autocorrelations only")


def test_refuses_a_set_without_rows(tmp_path):
    default_ms(str(tmp_path / "a.ms")).close()
    refuse(tmp_path / "a.ms", "no rows")


def test_refuses_a_set_without_parallel_hands(path):
    edit(path, "CORR_TYPE", [[10, 11]], subtable="POLARIZATION")
    refuse(path, "only the correlations XY, YX")


def test_refuses_an_empty_selection(path):
    refuse(path, "none of its 4 channels", channels=slice(7, 9))
    refuse(path, "none of its 3 integrations", integrations=slice(2, 2))


def test_phase_centre_in_j2000(path, block):
    with table(f"{path}/FIELD", readonly=False, ack=False) as t:
        t.putcolkeyword("PHASE_DIR", "MEASINFO", {"type": "direction", "Ref": "J2000"})
    assert read_measurement_set(path).phase_centre == block.phase_centre


def test_frame_of_the_phase_centre_in_a_column(path, block):
    with table(f"{path}/FIELD", readonly=False, ack=False) as t:
        t.addcols(makescacoldesc("PhaseDir_Ref", 21))
        t.putcell("PhaseDir_Ref", 0, 21)
        codes = {"TabRefTypes": ["J2000", "ICRS", "AZEL"], "TabRefCodes": np.array([0, 21, 10])}
        named = {"type": "direction", "VarRefCol": "PhaseDir_Ref", **codes}
        t.putcolkeyword("PHASE_DIR", "MEASINFO", named)
    assert read_measurement_set(path).phase_centre == block.phase_centre
    with table(f"{path}/FIELD", readonly=False, ack=False) as t:
        t.putcell("PhaseDir_Ref", 0, 10)
    refuse(path, "frame AZEL")


def test_refuses_a_moving_phase_centre(path):
    with table(f"{path}/FIELD", readonly=False, ack=False) as t:
        t.putcell("PHASE_DIR", 0, np.array([[1.0, -0.5], [1e-9, 0.0]]))
    refuse(path, "moves with time")


# ----------------------------------------------------------------------------------- real data


def unpack(archive: Path, folder: Path) -> Path:
    with zipfile.ZipFile(archive) as z:
        z.extractall(folder)
    return next(folder.glob("*.ms"))


def test_mwa_set(shared_data, tmp_path):
    path = unpack(shared_data / "mwa-1090008640-three-baselines.ms.zip", tmp_path)
    info = describe_measurement_set(path)
    assert (info.n_rows, info.n_baselines, len(info.freq_hz)) == (3, 1, 768)
    assert info.stored_corr == ("XX", "XY", "YX", "YY")
    assert (info.phase_centre.ra_rad, info.stations.array_name) == (0.0, "MWA")
    block = read_measurement_set(path)
    with table(str(path), ack=False) as t:
        rows = np.flatnonzero(t.getcol("ANTENNA1") < t.getcol("ANTENNA2"))
        flag, data = t.getcol("FLAG")[rows][..., [0, 3]], t.getcol("DATA")[rows][..., [0, 3]]
        weights = t.getcol("WEIGHT_SPECTRUM")[rows][..., [0, 3]]
    assert 0.3 < flag.mean() < 0.9
    np.testing.assert_array_equal(block.weight, np.where(flag | (weights <= 0), 0, weights))
    np.testing.assert_array_equal(block.vis, np.where(block.weight > 0, data.conj(), 0))


def test_askap_set_is_refused(shared_data, tmp_path):
    path = unpack(shared_data / "askap-racs-0635-31-beam0.ms.zip", tmp_path)
    refuse(path, "all UVW are zero")
    edit(path, "UVW", 1.0)
    refuse(path, "all samples asked for of DATA are flagged")


# ---------------------------------------------------------------------- an independent program


def test_dp3_sees_the_sky_as_we_do(tmp_path):
    """DP3 predicts a far-off source into our set; the signs of u, v and w must all be ours."""
    pytest.importorskip("dp3")
    block = make_block(n_stations=20, corr=("XX", "XY", "YX", "YY"))  # DP3 wants all four
    path, sky = tmp_path / "a.ms", tmp_path / "sky.txt"
    write_measurement_set(path, block)
    ra_deg, dec_deg, flux_jy = 205.0, -26.0, 2.5
    sky.write_text(
        f"FORMAT = Name, Type, Ra, Dec, I\nfar, POINT, {ra_deg}deg, {dec_deg}deg, {flux_jy}\n"
    )
    subprocess.run(
        [
            *(sys.executable, "-c", "import dp3, sys; sys.exit(dp3.entrypoint())"),
            *(f"msin={path}", "msout=.", "msout.datacolumn=MODEL_DATA", "numthreads=1"),
            *("steps=[predict]", f"predict.sourcedb={sky}", "predict.usebeammodel=false"),
        ],
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        cwd=tmp_path,
    )
    got = read_measurement_set(path, column="MODEL_DATA")
    lmn = np.array(lmn_from_radec(np.deg2rad(ra_deg), np.deg2rad(dec_deg), block.phase_centre))
    turns_m = got.uvw_m @ lmn
    assert np.ptp(got.uvw_m[:, 2] * lmn[2]) > 2  # metres: w matters
    expected = flux_jy * np.exp(-2j * np.pi * turns_m[:, None] * got.freq_hz / 299_792_458.0)
    for hand in range(2):
        np.testing.assert_allclose(got.vis[:, :, hand], expected, atol=5e-4 * flux_jy)
