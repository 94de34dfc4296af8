"""Stokes parameters of correlations (Hamaker & Bregman 1996, A&AS 117, 161).

The visibilities are those of a block, complex conjugates of DATA: the cross hands are conjugate
too, which turns the sign of i in the definitions.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

_RECIPES: tuple[dict[str, dict[str, complex]], ...] = (
    {
        "I": {"XX": 0.5, "YY": 0.5},
        "Q": {"XX": 0.5, "YY": -0.5},
        "U": {"XY": 0.5, "YX": 0.5},
        "V": {"XY": 0.5j, "YX": -0.5j},
    },
    {
        "I": {"RR": 0.5, "LL": 0.5},
        "Q": {"RL": 0.5, "LR": 0.5},
        "U": {"RL": 0.5j, "LR": -0.5j},
        "V": {"RR": 0.5, "LL": -0.5},
    },
)
_PARALLEL_HANDS = ("XX", "YY", "RR", "LL")


def stokes_recipe(name: str, corr: Sequence[str]) -> dict[str, complex] | None:
    """Return the factors of the correlations that sum to ``name``, None if some are missing.

    A product that is stored is itself; where one parallel hand alone is stored, it is Stokes I.
    """
    if name in corr:
        return {name: 1.0}
    for recipes in _RECIPES:
        if name in recipes and recipes[name].keys() <= set(corr):
            return recipes[name]
    hands = [hand for hand in corr if hand in _PARALLEL_HANDS]
    return {hands[0]: 1.0} if name == "I" and len(hands) == 1 else None


def make_stokes(
    vis: NDArray[np.complex64],
    weight: NDArray[np.float32],
    corr: Sequence[str],
    recipes: Sequence[Mapping[str, complex]],
) -> tuple[NDArray[np.complex64], NDArray[np.float32]]:
    """Return (stokes, row, chan) sums of correlations, and the (row, chan) weight of the first.

    A sample that lacks one of the correlations is left out of all, so that all have one beam.

    Parameters
    ----------
    vis, weight: (row, chan, corr); recipes: one for each Stokes parameter, of `stokes_recipe`.
    """
    used = [corr.index(name) for name in {name: None for recipe in recipes for name in recipe}]
    good = (weight[:, :, used] > 0).all(axis=2)
    stokes = np.zeros((len(recipes), *good.shape), dtype=np.complex64)
    for plane, recipe in zip(stokes, recipes, strict=True):
        for name, factor in recipe.items():
            plane += vis[:, :, corr.index(name)] * np.complex64(factor)
    stokes *= good
    variance = np.zeros(good.shape, dtype=np.float32)
    for name, factor in recipes[0].items():
        of_corr = weight[:, :, corr.index(name)]
        variance += np.divide(abs(factor) ** 2, of_corr, out=np.zeros_like(variance), where=good)
    combined = np.zeros_like(variance)
    np.divide(1, variance, out=combined, where=good)
    return stokes, combined
