"""Stokes parameters from correlations, in the conjugate of DATA's convention."""

import numpy as np
import pytest

from batch_imaging.kernels.stokes import make_stokes, stokes_recipe

I, Q, U, V = 3.0, 0.5, -0.4, 0.2
LINEAR = {"XX": I + Q, "XY": U - 1j * V, "YX": U + 1j * V, "YY": I - Q}
CIRCULAR = {"RR": I + V, "RL": Q - 1j * U, "LR": Q + 1j * U, "LL": I - V}


def combined(hands, names, weight=None):
    vis = np.array(list(hands.values()), dtype=np.complex64).reshape(1, 1, -1)
    weight = np.ones(vis.shape, dtype=np.float32) if weight is None else weight
    recipes = [stokes_recipe(name, tuple(hands)) for name in names]
    return make_stokes(vis, weight, tuple(hands), recipes)


@pytest.mark.parametrize("hands", [LINEAR, CIRCULAR], ids=["linear", "circular"])
def test_all_four_from_either_feed(hands):
    stokes, weight = combined(hands, "IQUV")
    assert stokes[:, 0, 0] == pytest.approx([I, Q, U, V])
    assert weight == pytest.approx(2.0)  # of the mean of two samples of weight 1


def test_a_product_is_itself():
    stokes, weight = combined(LINEAR, ["XY"])
    assert stokes[0, 0, 0] == pytest.approx(LINEAR["XY"])
    assert weight == 1


def test_a_sample_without_one_hand_is_left_out_of_all():
    weight = np.ones((1, 1, 4), dtype=np.float32)
    weight[0, 0, 1] = 0
    stokes, combined_weight = combined(LINEAR, "IU", weight)
    assert not stokes.any()
    assert combined_weight == 0
    assert combined(LINEAR, "I", weight)[1] == 2  # XY does not matter to it


def test_what_can_be_made():
    assert stokes_recipe("I", ("XX",)) == {"XX": 1.0}
    assert stokes_recipe("I", ("I",)) == {"I": 1.0}
    assert stokes_recipe("U", ("XX", "YY")) is None
    assert stokes_recipe("V", ("RR", "LL")) == {"RR": 0.5, "LL": -0.5}
