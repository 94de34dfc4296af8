"""How data are cut into units, and that neither images nor gains depend on it."""

from dataclasses import replace

import numpy as np
import pytest
from casacore.tables import table

from batch_imaging.errors import DataError
from batch_imaging.io.measurement_set import describe_measurement_set, write_measurement_set
from batch_imaging.kernels.gains import baseline_gains
from batch_imaging.model.direction import Direction
from batch_imaging.model.image import ImageGeometry
from batch_imaging.model.visibility import stokes_i
from batch_imaging.pipelines import units
from batch_imaging.pipelines.calibration import UnitGains, apply_gains, calibrate_unit
from batch_imaging.pipelines.imaging import ImagingSetup, invert
from batch_imaging.pipelines.units import (
    group_windows,
    load_unit,
    make_observation,
    plan_units,
    survey,
    window_units,
)

WINDOWS_HZ = (1.00e8, 1.03e8, 1.06e8, 1.09e8)
WHOLE, SINGLE_INTEGRATIONS = 2**30, 1


@pytest.fixture
def write_windows(tmp_path, make_block):
    """A function that writes a set of one channel for each window, with phases drawn by window."""

    def write(freqs_hz=WINDOWS_HZ, row_order=None):
        paths = []
        for index, freq_hz in enumerate(freqs_hz):
            block = make_block(freq_hz)
            rng = np.random.default_rng(index)
            phase = np.exp(1j * rng.normal(0, 0.5, (len(block.stations), 1, 1)))
            factor = baseline_gains(phase, block.antenna1, block.antenna2)
            block = block.with_vis((block.vis * factor).astype(np.complex64))
            if row_order == index:
                order = np.lexsort((block.antenna1, block.antenna2, block.time_mjd_s))
                block = with_rows(block, order)
            paths.append(tmp_path / f"window-{index}.ms")
            write_measurement_set(paths[-1], block)
        return paths

    return write


def with_rows(block, rows):
    names = ("uvw_m", "time_mjd_s", "antenna1", "antenna2", "vis", "weight")
    return replace(block, **{name: getattr(block, name)[rows] for name in names})


@pytest.fixture
def write_set(tmp_path, make_block):
    """A function that writes one set and describes it."""

    def write(name, freq_hz, **changes):
        block = replace(make_block(freq_hz), **changes)
        write_measurement_set(tmp_path / name, block)
        return survey(tmp_path / name)

    return write


def equal_groups(observation, n_groups):
    """Return the groups of windows that hold the same amount of data each."""
    return group_windows(np.ones(len(observation.windows)), n_groups)


def solve_and_image(paths, direct_sum, n_groups=2):
    """Return the dirty image of each group and the phases by window and time, as ICAL does it."""
    observation = make_observation([survey(path) for path in paths], n_groups)
    centre = observation.infos[0].phase_centre
    setup = ImagingSetup(ImageGeometry(64, 0.002, centre), 1e-9, "natural", 0.0, 1)
    dirty = [0.0] * n_groups
    weight = [0.0] * n_groups
    phases = {}
    plan = plan_units(observation, equal_groups(observation, n_groups))
    for unit in plan:
        loaded = load_unit(unit)
        block = loaded.block
        model = direct_sum(block.uvw_m, block.freq_hz, [(0.031, -0.012, 3.0), (0.008, 0.051, 1.0)])
        gains = calibrate_unit(loaded, model, UnitGains.ones(loaded), "T")
        corrected = apply_gains(loaded, gains)
        image = invert(corrected, *stokes_i(corrected), setup)
        dirty[unit.group] += image.pixels
        weight[unit.group] += image.weight
        for position, window in enumerate(unit.windows):
            for t, phase in enumerate(gains.phase[:, position]):
                phases[window.index, unit.integrations[0] + t] = phase
    return plan, np.stack(dirty) / np.array(weight)[:, None, None], phases


def assert_same_outcome(one, other):
    peak = np.abs(one[1]).max()
    np.testing.assert_allclose(other[1], one[1], atol=1e-6 * peak)
    assert one[2].keys() == other[2].keys()
    for key, phase in one[2].items():
        np.testing.assert_allclose(other[2][key], phase, atol=1e-6)


def test_images_and_gains_do_not_depend_on_the_cut(write_windows, direct_sum, monkeypatch):
    paths = write_windows()
    outcomes = []
    for unit_bytes in (WHOLE, SINGLE_INTEGRATIONS, 12_000):
        monkeypatch.setattr(units, "UNIT_BYTES", unit_bytes)
        outcomes.append(solve_and_image(paths, direct_sum))
    whole, single, middle = outcomes
    assert [(len(u.windows), u.integrations) for u in whole[0]] == [(2, (0, 4)), (2, (0, 4))]
    assert [(len(u.windows), u.integrations) for u in single[0]] == [
        (1, (t, t + 1)) for _ in WINDOWS_HZ for t in range(4)
    ]
    assert len(whole[0]) < len(middle[0]) < len(single[0])
    assert len(whole[2]) == 16
    assert_same_outcome(whole, single)
    assert_same_outcome(whole, middle)


def test_the_order_of_the_sets_does_not_matter(write_windows, direct_sum):
    paths = write_windows()
    plan, dirty, phases = solve_and_image(paths, direct_sum)
    for order in ([3, 0, 2, 1], [1, 2, 3, 0]):
        again = solve_and_image([paths[k] for k in order], direct_sum)
        assert again[0] == plan
        np.testing.assert_array_equal(again[1], dirty)
        assert all((again[2][key] == phases[key]).all() for key in phases)


def test_sets_with_rows_in_another_order_are_gridded_apart(write_windows, direct_sum, tmp_path):
    alike = solve_and_image(write_windows(), direct_sum)
    other = solve_and_image(write_windows(row_order=1), direct_sum)
    digests = [survey(tmp_path / f"window-{k}.ms").rows_digest for k in range(4)]
    assert digests[0] == digests[2] == digests[3] != digests[1]
    assert [len(unit.windows) for unit in alike[0]] == [2, 2]
    assert [len(unit.windows) for unit in other[0]] == [1, 1, 2]
    assert_same_outcome(alike, other)


@pytest.mark.parametrize("column", ["UVW", "TIME", "ANTENNA2"])
def test_the_digest_sees_every_column_that_makes_a_row(write_windows, column):
    (path,) = write_windows(WINDOWS_HZ[:1])
    before = describe_measurement_set(path).rows_digest
    assert describe_measurement_set(path).rows_digest == before
    with table(str(path), readonly=False, ack=False) as main:
        cell = main.getcell(column, 0)
        main.putcell(column, 0, cell + 1 if column == "ANTENNA2" else cell + 1e-3)
    assert describe_measurement_set(path).rows_digest != before


def test_windows_of_a_unit_stand_side_by_side_in_frequency(write_windows):
    observation = make_observation([survey(path) for path in write_windows()])
    (unit,) = plan_units(observation, equal_groups(observation, 1))
    loaded = load_unit(unit)
    assert loaded.block.freq_hz.tolist() == list(WINDOWS_HZ)
    assert loaded.window_of_chan.tolist() == [0, 1, 2, 3]
    for position, window in enumerate(observation.windows):
        (alone,) = (load_unit(u).block for u in window_units(observation, window))
        np.testing.assert_array_equal(alone.vis[:, 0], loaded.block.vis[:, position])
        np.testing.assert_array_equal(alone.weight[:, 0], loaded.block.weight[:, position])
    stations_m = loaded.factors.station_uvw_m[0]
    p, q = loaded.block.antenna1[:66], loaded.block.antenna2[:66]
    np.testing.assert_allclose(stations_m[q] - stations_m[p], loaded.block.uvw_m[:66], atol=1e-9)


@pytest.mark.parametrize("step_hz", [1e6, -1e6])
def test_a_set_of_many_channels_is_split(write_set, step_hz):
    freq_hz = 1e8 + step_hz * np.arange(7)
    info = write_set("many.ms", freq_hz)
    observation = make_observation([info], 3)
    assert len(observation.windows) == 3
    chans = [list(range(*window.channels)) for window in observation.windows]
    assert sorted(chan for run in chans for chan in run) == list(range(7))
    assert (np.diff(observation.freq_hz) > 0).all()
    np.testing.assert_allclose(observation.freq_hz, [freq_hz[c].mean() for c in chans])
    np.testing.assert_allclose(observation.chan_width_hz, [1e5 * len(c) for c in chans])
    assert [window.index for window in observation.windows] == [0, 1, 2]
    assert len(make_observation([info], 20).windows) == 7  # no more than there are channels
    assert len(make_observation([info], 1).windows) == 1


def test_the_time_range_is_that_of_all_sets(write_set):
    info = write_set("a.ms", WINDOWS_HZ[0])
    begin, end = make_observation([info]).time_range_mjd_s
    assert end - begin == pytest.approx(3 * 1200 + 10)


REFUSED = {
    "phase centre": (
        WINDOWS_HZ[1],
        {"phase_centre": Direction.from_degrees(11.0, -35.0)},
        "its phase centre is not that of",
    ),
    "correlations": (WINDOWS_HZ[1], {"corr": ("RR", "LL")}, "its stations or correlations"),
    "frequency": (WINDOWS_HZ[0], {}, "at the frequencies of another set"),
    "integrations": (WINDOWS_HZ[1], {"integration_s": 5.0}, "its integrations are not those of"),
}


@pytest.mark.parametrize(("freq_hz", "changes", "message"), REFUSED.values(), ids=REFUSED)
def test_sets_that_do_not_belong_together_are_refused(write_set, freq_hz, changes, message):
    infos = [write_set("one.ms", WINDOWS_HZ[0]), write_set("other.ms", freq_hz, **changes)]
    with pytest.raises(DataError, match=message) as caught:
        make_observation(infos)
    assert "\n" not in str(caught.value)
    assert "other.ms" in str(caught.value)


def test_other_stations_are_refused(write_set, make_block):
    info = write_set("one.ms", WINDOWS_HZ[0])
    stations = make_block(WINDOWS_HZ[1]).stations
    renamed = replace(stations, names=tuple(f"T{name}" for name in stations.names))
    with pytest.raises(DataError, match=r"other\.ms: its stations"):
        make_observation([info, write_set("other.ms", WINDOWS_HZ[1], stations=renamed)])


def test_no_sets_are_refused():
    with pytest.raises(DataError, match="no Measurement Sets to image"):
        make_observation([])


def test_the_cache_returns_the_same_and_is_bounded(write_windows, monkeypatch):
    observation = make_observation([survey(path) for path in write_windows()])
    plan = [unit for w in observation.windows for unit in window_units(observation, w)]
    loaded = [load_unit(unit) for unit in plan]
    assert all(load_unit(u) is item for u, item in zip(plan, loaded, strict=True))
    monkeypatch.setattr(units, "CACHE_BYTES", 2 * loaded[0].block.nbytes)
    again = load_unit(replace(plan[0], integrations=(0, 2)))
    assert sum(item.block.nbytes for item in units._cache.values()) <= units.CACHE_BYTES
    assert load_unit(replace(plan[0], integrations=(0, 2))) is again
    monkeypatch.setattr(units, "CACHE_BYTES", 0)
    assert load_unit(plan[2]) is load_unit(plan[2])  # the one in use stays


def test_the_cache_sees_that_a_set_was_flagged(write_windows):
    (path,) = write_windows(WINDOWS_HZ[:1])
    observation = make_observation([survey(path)])
    (unit,) = plan_units(observation, equal_groups(observation, 1))
    assert load_unit(unit).block.weight.all()
    with table(str(path), readonly=False, ack=False) as main:
        main.putcol("FLAG", np.ones_like(main.getcol("FLAG")))
    assert not load_unit(unit).block.weight.any()


@pytest.mark.parametrize(
    ("weight", "n_groups", "groups"),
    [
        ([1, 1, 1, 1], 2, [[0, 1], [2, 3]]),
        ([1, 1, 1], 2, [[0], [1, 2]]),
        ([1, 0, 1, 1], 2, [[0], [2, 3]]),
        ([1, 1, 0.01], 2, [[0], [1, 2]]),
        ([1, 0.01], 2, [[0, 1]]),  # a plane of next to nothing would be noise
        ([0, 0, 5], 2, [[2]]),
        ([1], 3, [[0]]),
    ],
)
def test_groups_hold_as_much_data_each(weight, n_groups, groups):
    assert group_windows(np.array(weight, dtype=float), n_groups) == groups


def test_sets_with_common_channels_are_refused(write_set):
    one = write_set("one.ms", np.array([1.00e8, 1.01e8, 1.02e8]))
    other = write_set("other.ms", np.array([1.02e8, 1.03e8, 1.04e8]))
    with pytest.raises(DataError, match=r"other\.ms: has channels at the frequencies of another"):
        make_observation([one, other])
