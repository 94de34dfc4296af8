"""Which rows and channels go into which plane."""

from dataclasses import replace

import numpy as np
import pytest
from casacore.tables import table

from batch_imaging.errors import DataError, ParameterError
from batch_imaging.io.measurement_set import write_measurement_set
from batch_imaging.model.direction import Direction
from batch_imaging.model.spectral_axis import parse_ranges
from batch_imaging.model.stations import StationLayout
from batch_imaging.model.visibility import Visibility
from batch_imaging.pipelines.planes import Selection, plan_planes

FREQ_HZ = 1.42e9 + 1e4 * np.array([0, 1, 2, 3, 10, 11, 12, 13])  # with a gap
TIMES_S = 59_025.0 * 86_400 + 10.0 * np.arange(6)


@pytest.fixture
def observed(tmp_path):
    """A set of two fields, four integrations of scans 1 and 2 and two of scan 3."""
    path = tmp_path / "a.ms"
    shape = (len(TIMES_S), len(FREQ_HZ), 2)
    write_measurement_set(
        path,
        Visibility(
            uvw_m=np.full((len(TIMES_S), 3), 100.0),
            time_mjd_s=TIMES_S,
            antenna1=np.zeros(len(TIMES_S), np.int32),
            antenna2=np.ones(len(TIMES_S), np.int32),
            vis=np.ones(shape, np.complex64),
            weight=np.ones(shape, np.float32),
            freq_hz=FREQ_HZ,
            chan_width_hz=np.full(len(FREQ_HZ), 1e4),
            corr=("XX", "YY"),
            integration_s=10.0,
            phase_centre=Direction(1.0, -0.5),
            stations=StationLayout(
                ("A", "B"),
                np.array([[-2.56e6, 5.08e6, -2.87e6], [-2.561e6, 5.08e6, -2.87e6]]),
                np.full(2, 25.0),
                "T",
            ),
            field_name="first",
        ),
    )
    with table(str(path / "FIELD"), readonly=False, ack=False) as fields:
        fields.copyrows(fields)
        fields.putcell("NAME", 1, "second")
        fields.putcell("PHASE_DIR", 1, np.array([[1.1, -0.5]]))
    with table(str(path), readonly=False, ack=False) as rows:
        rows.putcol("FIELD_ID", [0, 0, 0, 0, 1, 1])
        rows.putcol("SCAN_NUMBER", [1, 1, 2, 2, 3, 3])
    return path


def freq_hz(plan):
    return [plane.freq_hz for plane in plan.planes]


def test_channels_and_averages_that_do_not_cross_a_gap(observed):
    one = Selection(field="first")
    assert freq_hz(plan_planes([observed], one)) == pytest.approx(FREQ_HZ)
    plan = plan_planes([observed], replace(one, average=3))
    assert freq_hz(plan) == pytest.approx(FREQ_HZ[[1, 3, 5, 7]])
    assert [plane.width_hz for plane in plan.planes] == pytest.approx([3e4, 1e4, 3e4, 1e4])
    assert [piece.channels for plane in plan.planes for piece in plane.pieces] == [
        (0, 3), (3, 4), (4, 7), (7, 8),
    ]  # fmt: skip


def test_channels_are_chosen_by_number_and_velocity(observed):
    one = Selection(field="0", channels=parse_ranges("1~2"))
    assert freq_hz(plan_planes([observed], one)) == pytest.approx(FREQ_HZ[1:3])
    one = replace(one, channels=parse_ranges("-1~3km/s"), rest_freq_hz=1.42e9)
    assert freq_hz(plan_planes([observed], one)) == pytest.approx(FREQ_HZ[:1])


def test_scans_and_integrations(observed):
    scans = plan_planes([observed], Selection(axis="time", field="first"))
    assert [np.ptp(plane.time_mjd_s) for plane in scans.planes] == pytest.approx([20, 20])
    assert {piece.channels for piece in scans.planes[0].pieces} == {(0, 8)}
    each = plan_planes([observed], Selection(axis="time", step="integration", field="first"))
    assert [np.mean(plane.time_mjd_s) for plane in each.planes] == pytest.approx(TIMES_S[:4])
    some = replace(Selection(axis="none", field="first"), times_mjd_s=((TIMES_S[1], TIMES_S[2]),))
    assert plan_planes([observed], some).planes[0].time_mjd_s == pytest.approx(
        (TIMES_S[0] + 5, TIMES_S[2] + 5)
    )


def test_times_apart_leave_out_what_is_between(observed):
    apart = tuple((TIMES_S[k] - 1, TIMES_S[k] + 1) for k in (0, 2))
    plan = plan_planes([observed], Selection(field="first", times_mjd_s=apart))
    assert [piece.times_mjd_s for piece in plan.planes[0].pieces] == [
        (TIMES_S[k], TIMES_S[k]) for k in (0, 2)
    ]
    assert plan.largest == 2


def test_sets_of_the_same_channels_go_into_the_same_planes(observed):
    plan = plan_planes([observed, observed], Selection(field="second"))
    assert len(plan.planes) == len(FREQ_HZ)
    assert [len(plane.pieces) for plane in plan.planes] == [2] * len(FREQ_HZ)


def test_a_frame_takes_all_channels_that_overlap(observed):
    plan = plan_planes(
        [observed], Selection(field="first", frame="LSRK", channels=parse_ranges("1~1"))
    )
    (plane,) = plan.planes
    assert plan.frame == "LSRK"
    assert abs(plane.freq_hz - FREQ_HZ[1]) > 100  # the earth moves
    begin, end = plane.pieces[0].channels
    assert begin <= 1 < end <= 3


def test_a_plane_is_the_same_wherever_it_stands(observed):
    few = plan_planes([observed], Selection(field="first", channels=parse_ranges("2~3")))
    many = plan_planes([observed], Selection(field="first"))
    assert few.planes[0].identity() == many.planes[2].identity()


@pytest.mark.parametrize(
    ("selection", "error", "said"),
    [
        (Selection(), DataError, "choose one with --field"),
        (Selection(field="third"), DataError, "no data for --field third; there are the fields"),
        (Selection(field="first", stokes=("V",)), DataError, "no Stokes V can be made"),
        (Selection(field="first", axis="time", frame="LSRK"), ParameterError, "belongs to --axis"),
        (Selection(field="first", channels=parse_ranges("1~2km/s")), ParameterError, "rest freq"),
    ],
)
def test_what_cannot_be_planned(observed, selection, error, said):
    with pytest.raises(error, match=said):
        plan_planes([observed], selection)
