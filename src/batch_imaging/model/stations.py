"""Where the stations of an array stand."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StationLayout:
    """Stations of an array.

    Attributes
    ----------
    names: (station,) unique names.
    itrf_m: (station, 3) geocentric positions, metres, ITRF.
    diameter_m: (station,) station (dish) diameters, metres.
    array_name: the telescope's name, as it stands in Measurement Sets and FITS headers.
    """

    names: tuple[str, ...]
    itrf_m: NDArray[np.float64]
    diameter_m: NDArray[np.float64]
    array_name: str

    def __len__(self) -> int:
        return len(self.names)

    @property
    def reference_itrf_m(self) -> NDArray[np.float64]:
        """(3,) mean geocentric position, metres."""
        mean: NDArray[np.float64] = self.itrf_m.mean(axis=0)
        return mean
