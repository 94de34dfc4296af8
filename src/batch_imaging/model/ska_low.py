"""A built-in layout with the radial density of SKA1-Low.

The 512 stations are drawn, not copied: a core of stations that do not overlap, then clusters of
six along three logarithmic spirals. How many stand within each distance of the centre, which
shapes the point spread function, is as in LOWBD2, the baseline design that RASCIL simulates with.
"""

import numpy as np
from numpy.typing import NDArray

from batch_imaging.errors import ParameterError
from batch_imaging.model.geometry import (
    Floats,
    GeodeticPosition,
    enu_from_itrf,
    geodetic_from_itrf,
    itrf_from_enu,
)
from batch_imaging.model.stations import StationLayout

SKA1_LOW_CENTRE = GeodeticPosition.from_degrees(116.76444824, -26.824722084, 300.0)
STATION_DIAMETER_M = 38.0

# Stations within each distance of the centre; the other 114 stand further out, to about 35 km.
STATIONS_WITHIN_M = {100: 13, 300: 94, 750: 236, 1_000: 251, 3_000: 314, 10_000: 398}

_SEPARATION_M = 40.0
_CLUSTER_SIZE = 6
_CLUSTER_RADIUS_M = 120.0
_SPIRAL_ARMS = 3
_SPIRAL_TURN_RAD = 2.4  # angle an arm turns through while its radius grows tenfold
_SEED = 422


def ska1_low() -> StationLayout:
    """Return the built-in layout of 512 stations; the same at every call and on every machine."""
    east_north = _draw_east_north()
    itrf_m = _place_on_ellipsoid(east_north)
    return StationLayout(
        names=tuple(f"S{number:03d}" for number in range(1, len(itrf_m) + 1)),
        itrf_m=itrf_m,
        diameter_m=np.full(len(itrf_m), STATION_DIAMETER_M),
        array_name="SKA1-LOW",
    )


def distance_from_centre_m(layout: StationLayout) -> Floats:
    """Return distances (station,) from the mean position, in the tangent plane there, metres."""
    centre = GeodeticPosition.from_itrf(layout.reference_itrf_m)
    east, north, _ = enu_from_itrf(layout.itrf_m, centre).T
    return np.asarray(np.hypot(east, north))


def select_within(layout: StationLayout, rmax_m: float) -> StationLayout:
    """Return the stations not further than ``rmax_m`` from the layout's mean position.

    Raises
    ------
    ParameterError: fewer than three stations are left, too few to calibrate.
    """
    distance_m = distance_from_centre_m(layout)
    (chosen,) = np.nonzero(distance_m <= rmax_m)
    if len(chosen) < 3:
        needed_m = np.sort(distance_m)[2]
        raise ParameterError(
            f"rmax {rmax_m:g} m leaves {len(chosen)} of the {len(layout)} stations of "
            f"{layout.array_name}; three are needed, so set rmax to {np.ceil(needed_m):g} or more"
        )
    return StationLayout(
        names=tuple(layout.names[index] for index in chosen),
        itrf_m=layout.itrf_m[chosen],
        diameter_m=layout.diameter_m[chosen],
        array_name=layout.array_name,
    )


def _draw_east_north() -> Floats:
    """Return positions (512, 2) east and north of their mean, metres, nearest to it first."""
    # Uniform draws of PCG64 are the part of numpy's generators that is promised to stay.
    rng = np.random.Generator(np.random.PCG64(_SEED))
    core = _draw_core(rng)
    arms = np.concatenate([_draw_cluster(rng, centre) for centre in _cluster_centres()])
    positions = np.concatenate([core, arms])

    # Moving the outermost stations alone brings the mean to zero and keeps the counts.
    outermost = STATIONS_WITHIN_M[10_000]
    positions[outermost:] -= positions.sum(axis=0) / (len(positions) - outermost)
    positions -= positions.mean(axis=0)
    return np.asarray(positions[np.argsort(np.hypot(*positions.T), kind="stable")])


def _draw_core(rng: np.random.Generator) -> Floats:
    """Return the positions (314, 2) within 3 km: darts that keep the minimum separation."""
    positions = np.empty((STATIONS_WITHIN_M[3_000], 2))
    inner_m, n_placed = 0.0, 0
    for outer_m, n_within in STATIONS_WITHIN_M.items():
        if outer_m > 3_000:
            break
        while n_placed < n_within:
            fraction, turn = rng.uniform(size=2)
            if outer_m <= 300:  # even density: the centre is as full as it can be
                radius_m = np.sqrt(inner_m**2 + fraction * (outer_m**2 - inner_m**2))
            else:  # density falls with the square of the distance
                radius_m = inner_m * (outer_m / inner_m) ** fraction
            dart = _from_polar(radius_m, 2 * np.pi * turn)
            if _is_free(dart, positions[:n_placed]):
                positions[n_placed] = dart
                n_placed += 1
        inner_m = float(outer_m)
    return positions


def _cluster_centres() -> Floats:
    """Return the centres (33, 2) of the clusters, which follow one another outwards on the arms."""
    n_inner = (STATIONS_WITHIN_M[10_000] - STATIONS_WITHIN_M[3_000]) // _CLUSTER_SIZE
    n_outer = (512 - STATIONS_WITHIN_M[10_000]) // _CLUSTER_SIZE
    radius_m = np.concatenate(
        [np.geomspace(3_300, 9_500, n_inner), np.geomspace(12_000, 34_000, n_outer)]
    )
    arm = np.arange(len(radius_m)) % _SPIRAL_ARMS
    angle = _SPIRAL_TURN_RAD * np.log10(radius_m / 3_000) + 2 * np.pi * arm / _SPIRAL_ARMS
    return _from_polar(radius_m, angle)


def _draw_cluster(rng: np.random.Generator, centre: Floats) -> Floats:
    """Return the positions (6, 2) of the stations of one cluster."""
    positions = np.empty((0, 2))
    while len(positions) < _CLUSTER_SIZE:
        fraction, turn = rng.uniform(size=2)
        dart = centre + _from_polar(_CLUSTER_RADIUS_M * np.sqrt(fraction), 2 * np.pi * turn)
        if _is_free(dart, positions):
            positions = np.vstack([positions, dart])
    return positions


def _place_on_ellipsoid(east_north: Floats) -> Floats:
    """Return geocentric positions (station, 3) at the centre's height above the ellipsoid."""
    enu_m = np.column_stack([east_north, np.zeros(len(east_north))])
    for _ in range(3):  # at 35 km the ellipsoid lies 96 m below the tangent plane
        _, _, height_m = geodetic_from_itrf(itrf_from_enu(enu_m, SKA1_LOW_CENTRE))
        enu_m[:, 2] += SKA1_LOW_CENTRE.height_m - height_m
    return itrf_from_enu(enu_m, SKA1_LOW_CENTRE)


def _from_polar(radius_m: float | Floats, angle_rad: float | Floats) -> Floats:
    return np.stack([radius_m * np.cos(angle_rad), radius_m * np.sin(angle_rad)], axis=-1)


def _is_free(dart: Floats, positions: NDArray[np.float64]) -> bool:
    offset = positions - dart
    return bool((np.hypot(offset[:, 0], offset[:, 1]) >= _SEPARATION_M).all())
