"""What a user may ask for: one model, of which schema, checks, messages and documentation are made.

`load_parameters` is the way in; its error names every mistake at once. A field has its limits and
unit in its type and its meaning in the string below it; nothing is said twice. Checks that need the
stations, or the memory at hand, belong to the plan.
"""

import difflib
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticCustomError

from batch_imaging.errors import ParameterError
from batch_imaging.kubernetes_names import kubernetes_name
from batch_imaging.model.direction import Direction

SCHEMA_VERSION = "1.0"
SKA1_LOW_LATITUDE_DEG = -26.8247
NMAJOR_LIMIT = 12  # major cycles that `nmajor` "auto" may take
CONTEXT_DELAY = {"T": 0, "G": 2, "B": 3}  # cycles after first_selfcal, as the original's controls

Hertz = Annotated[float, Field(json_schema_extra={"unit": "Hz"})]
Jansky = Annotated[float, Field(json_schema_extra={"unit": "Jy"})]
Metres = Annotated[float, Field(json_schema_extra={"unit": "m"})]
Seconds = Annotated[float, Field(json_schema_extra={"unit": "s"})]
Degrees = Annotated[float, Field(json_schema_extra={"unit": "deg"})]
Radians = Annotated[float, Field(json_schema_extra={"unit": "rad"})]

Auto = Literal["auto"]
Number = TypeVar("Number", int, float)


def _is_date(text: str) -> str:
    date.fromisoformat(text)
    return text


DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
BufferName = Annotated[
    str,
    Field(
        pattern=DNS_LABEL,
        json_schema_extra={
            "allowed": "a DNS label (1 to 63 of a-z, 0-9 and '-', no '-' at either end)"
        },
    ),
]
StorageClass = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?$",
        json_schema_extra={"allowed": "a name of a-z, 0-9, '-' and '.', as Kubernetes has them"},
    ),
]
QuantityText = Annotated[
    str,
    Field(
        pattern=r"^[0-9]+([.][0-9]+)?([kMGTPE]|[KMGTPE]i)?$",
        json_schema_extra={"unit": "B", "allowed": "a size as in 500Gi, 1.5T or 1048576"},
    ),
]
# A word without a dot or a slash is rather a misspelt name than a file.
FilePath = Annotated[
    str,
    Field(
        pattern=r"[./]",
        json_schema_extra={"allowed": "the path of a file, with a '.' or '/' in it"},
    ),
]
IsoDate = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d{2}-\d{2}$",
        json_schema_extra={"format": "date", "allowed": "a date as YYYY-MM-DD"},
    ),
    AfterValidator(_is_date),
]
CalibrationContext = Annotated[
    str,
    Field(
        pattern="^T?G?B?$",
        json_schema_extra={"allowed": "some of the letters T, G, B in this order, or '' for none"},
    ),
]
Scales = Annotated[
    tuple[Annotated[int, Field(ge=0, le=1000)], ...],
    # not strict: JSON has lists where Python has tuples
    Field(strict=False, min_length=1, max_length=16, json_schema_extra={"unit": "pixel"}),
]
InputBuffer = Annotated[
    str,
    Field(
        pattern=rf"^/|{DNS_LABEL}",
        json_schema_extra={"allowed": "the name of a buffer, or an absolute path"},
    ),
]
SetNames = Annotated[
    tuple[
        Annotated[
            str,
            Field(
                pattern="^[^/]",
                json_schema_extra={"allowed": "a name or pattern as in *.ms, within the buffer"},
            ),
        ],
        ...,
    ],
    Field(strict=False, min_length=1, max_length=10_000),  # as for scales
]
Text = Annotated[
    str, Field(min_length=1, json_schema_extra={"allowed": "text as its description says"})
]
WallTime = Annotated[
    str,
    Field(
        pattern=r"^([0-9]+-)?[0-9]{1,3}:[0-5][0-9]:[0-5][0-9]$",
        json_schema_extra={"allowed": "hours:minutes:seconds, perhaps after days and a '-'"},
    ),
]
Words = Annotated[
    tuple[Annotated[str, Field(min_length=1, json_schema_extra={"allowed": "not empty"})], ...],
    Field(strict=False, min_length=0, max_length=10_000),  # as for scales
]


@dataclass(frozen=True, slots=True)
class StoppingRule:
    """When deconvolution ends; None where the data shall decide."""

    nmajor: int | None
    niter: int | None
    gain: float | None
    threshold_jy: float | None
    fractional_threshold: float | None
    convergence: float

    @property
    def max_nmajor(self) -> int:
        return NMAJOR_LIMIT if self.nmajor is None else self.nmajor


STOPPING_RULES = {
    "auto": StoppingRule(None, None, None, None, None, convergence=0.5),
    "original": StoppingRule(5, 1000, 0.25, 0.1, 0.1, convergence=0.0),
}


class _Group(BaseModel):
    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Simulation(_Group):
    array: Literal["ska1-low"] | FilePath = "ska1-low"
    """The built-in SKA1-Low layout, or a file of station positions."""
    sky: Literal["generated"] | FilePath = "generated"
    """A population drawn from published source counts, or a catalogue file."""
    flux_limit: Jansky = Field(3.0, gt=0, le=1e6)
    """Faintest source of a generated sky, at the middle of the band."""
    primary_beam: bool = True
    """Whether sources are seen through the primary beam of a station."""
    station_diameter: Metres = Field(38.0, gt=0, le=1000)
    """Diameter of a station of the built-in layout; it sets the primary beam."""
    phase_error: Radians = Field(1.0, ge=0, le=100)
    """Standard deviation of the station phases, drawn anew for every time."""
    amplitude_error: float = Field(0.0, ge=0, lt=1)
    """Standard deviation of the station amplitudes about 1, drawn anew for every time."""
    noise: Jansky = Field(0.0, ge=0, le=1e9)
    """Standard deviation of thermal noise in each of the real and imaginary parts of a Stokes I
    visibility."""
    seed: int = Field(180555, ge=0, le=2**32 - 1)
    """Seed of sky, gains and noise."""
    date: IsoDate = "2020-05-23"
    """UTC date of the observation."""
    hour_angle_min: Degrees = Field(-30.0, ge=-180, le=180)
    """Hour angle of the first integration."""
    hour_angle_max: Degrees = Field(30.0, ge=-180, le=180)
    """Hour angle of the last integration; with ntimes 1 the only one is half way."""
    integration_time: Seconds = Field(10.0, gt=0, le=3600)
    """Length of an integration."""


class Imaging(_Group):
    npixel: int = Field(1024, ge=32, le=65536, multiple_of=2)
    """Pixels along one side of the image."""
    cellsize: Radians = Field(0.0005, gt=0, le=0.05)
    """Side of a pixel."""
    weighting: Literal["natural", "uniform", "robust"] = "natural"
    """Weighting of the visibilities."""
    robust: float = Field(0.0, ge=-2, le=2)
    """Briggs robustness, from -2 (almost uniform) to 2 (almost natural); for weighting robust."""
    accuracy: float = Field(1e-4, ge=1e-7, le=1e-2)
    """Relative accuracy of gridding and degridding; below 1e-5 they run in double precision.
    Below 1e-7 the single precision of stored visibilities is what counts."""


class Ical(_Group):
    preset: Literal["auto", "original"] = "auto"
    """What becomes of values left at 'auto': found from the data, or those of the original workflow
    (nmajor 5, niter 1000, gain 0.25, threshold 0.1, fractional_threshold 0.1, convergence 0)."""
    algorithm: Literal["mmclean", "msclean", "hogbom"] = "mmclean"
    """Deconvolution: multi-scale multi-frequency, multi-scale, or point by point."""
    nmajor: Auto | Annotated[int, Field(ge=1, le=1000)] = "auto"
    """Most major cycles ('auto': 12)."""
    niter: Auto | Annotated[int, Field(ge=1, le=10**9)] = "auto"
    """Most clean iterations in a major cycle."""
    gain: Auto | Annotated[float, Field(gt=0, le=1)] = "auto"
    """Fraction of a peak that one clean iteration removes."""
    threshold: Auto | Annotated[Jansky, Field(ge=0, le=1e9)] = "auto"
    """Residual peak per beam at which cleaning ends."""
    fractional_threshold: Auto | Annotated[float, Field(ge=0, lt=1)] = "auto"
    """Fraction of the residual peak at which a major cycle ends."""
    convergence: Auto | Annotated[float, Field(ge=0, lt=1)] = "auto"
    """A major cycle that lowers neither peak nor rms of the residual by this fraction is the last
    ('auto': 0.5; 0: never stop for this)."""
    scales: Scales = (0, 3, 10)
    """Sizes of the components of a multi-scale clean; 0 is a point."""
    nmoment: int = Field(2, ge=1, le=16)
    """Terms of the polynomial in frequency of mmclean; no more than nfreqwin are used."""
    calibration_context: CalibrationContext = "T"
    """Gains to solve for: T phase per time, G phase and amplitude, B bandpass."""
    first_selfcal: int = Field(1, ge=1, le=1000)
    """First major cycle, counted from 0, that solves for gains; G joins 2 and B 3 cycles later.
    There is no model to solve with in cycle 0."""

    @property
    def stopping(self) -> StoppingRule:
        """The stopping rule after the preset; explicit values win over it."""
        preset = STOPPING_RULES[self.preset]
        return StoppingRule(
            nmajor=_unless_auto(self.nmajor, preset.nmajor),
            niter=_unless_auto(self.niter, preset.niter),
            gain=_unless_auto(self.gain, preset.gain),
            threshold_jy=_unless_auto(self.threshold, preset.threshold_jy),
            fractional_threshold=_unless_auto(
                self.fractional_threshold, preset.fractional_threshold
            ),
            convergence=preset.convergence if self.convergence == "auto" else self.convergence,
        )


class Spectral(_Group):
    enabled: bool = True
    """Whether every channel is imaged after ICAL."""


class Input(_Group):
    buffer: InputBuffer | None = None
    """Buffer that holds Measurement Sets, which are imaged instead of a simulation and not
    changed; from a shell a folder within that of the products, or an absolute path."""
    sets: SetNames = ("*.ms",)
    """Their names in the buffer, or patterns of these."""
    column: Text = "DATA"
    """Column of visibilities; this and what follows are for `image`, ICAL takes sets whole."""
    field: Text | None = None
    """Number or name of the field; null if there is one only."""
    spw: Text | None = None
    """Spectral windows, as in 0,2; null for all."""
    channels: Text | None = None
    """Ranges of channels, Hz or velocities, as in 10~99 or 1.41~1.42GHz; null for all."""
    times: Text | None = None
    """Ranges of UTC, as in 2020-06-25T10:00~2020-06-25T12:00; null for all."""


class Image(_Group):
    axis: Literal["channel", "time", "none"] = "channel"
    """Along which planes lie."""
    time_step: Literal["scan", "integration"] = "scan"
    """Of a plane along time."""
    stokes: Text = "I"
    """I, IQUV, or products of the receivers as in XX,YY."""
    average: int = Field(1, ge=1, le=1_000_000)
    """Channels of one plane."""
    frame: Literal["TOPO", "BARY", "LSRK"] | None = None
    """Frame of an axis to regrid to; null keeps the channels of the data."""
    velocities: Text | None = None
    """Axis to regrid to: START,STEP,N in km/s, in `image.frame`."""
    velocity: Literal["radio", "optical"] = "radio"
    """Convention of velocities."""
    rest_freq: Annotated[Hertz, Field(gt=0, le=1e13)] | None = None
    """Rest frequency of the line."""
    cellsize: Auto | Annotated[Radians, Field(gt=0, le=0.05)] = "auto"
    """Side of a pixel ('auto': a quarter of the resolution); imaging.cellsize is not used."""
    clean: bool = True
    """Whether planes are cleaned, by the group ical."""
    mask: FilePath | None = None
    """Where components may be: a FITS image or cube in the input buffer, not 0 there."""
    mask_sigma: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """Cleaning is of what stands so many standard deviations above the noise; null for all."""
    weight_density: Literal["plane", "all"] = "plane"
    """Planes whose density makes uniform and robust weights."""
    format: Literal["fits", "zarr"] = "fits"
    """Of the cubes."""
    threads: int = Field(1, ge=1, le=1024)
    """Threads that a worker images a plane with."""
    model: FilePath | None = None
    """Continuum to subtract first, a file in the input buffer: list, catalogue or FITS model."""
    fit: Annotated[int, Field(ge=0, le=20)] | None = None
    """Order of a polynomial to fit to visibilities and subtract, after the model."""
    fit_image: Annotated[int, Field(ge=0, le=20)] | None = None
    """Order of a polynomial to fit to the pixels of the cube and subtract."""
    line_free: Text | None = None
    """Channels of the fits, as in 0~44,76~127 or with units, or a CSV file in the input buffer
    that `batch-imaging subtract --auto-mask` left; null for all."""
    auto_mask: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Standard deviations above which channels count as line in the fit to visibilities."""
    order: Literal["model,fit", "fit,model"] | None = None
    """Which comes first, if both are given; null for the model."""
    subtract_threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Threads that a worker subtracts with; null for its share of the cores."""
    moments: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """Moments are of what is above so many times the noise; null: 5 if a continuum is
    subtracted, else no moments."""
    max_failed_planes: int = Field(10, ge=0, le=1_000_000)
    """Planes that may fail or diverge and stay blank."""


class Engine(_Group):
    name: Literal[
        "auto", "local", "serial", "slurm", "htcondor", "ssh", "address", "kubernetes"
    ] = "auto"
    """Who runs the workers. 'auto': in a control system its deployer; from a shell the scheduler
    that DASK_SCHEDULER_ADDRESS or RASCIL_DASK_SCHEDULER names, or else this machine."""
    queue: Text | None = None
    """Partition of SLURM."""
    account: Text | None = None
    """Account, or accounting group, that pays."""
    walltime: WallTime = "01:00:00"
    """Time limit of a worker's job; workers retire before it and are replaced."""
    cores: int = Field(1, ge=1, le=1024)
    """Cores of a worker, threads of its native libraries."""
    memory: QuantityText | None = None
    """Memory of a worker; null for what the plan needs."""
    disk: QuantityText = "1Gi"
    """Disk space of a worker, for HTCondor."""
    directives: Words = ()
    """Further lines for jobs, as in --constraint=avx2 (SLURM) or requirements = … (HTCondor)."""
    interface: Text | None = None
    """Network interface between script and workers, as in ib0."""
    hosts: Words = ()
    """Hosts for ssh; the first runs the scheduler, all run workers in turn."""
    address: Text | None = None
    """Address of a scheduler, as in tcp://127.0.0.1:8786; null for that of the environment."""
    image: Text | None = None
    """Container image of workers, for Kubernetes."""
    deadline: Seconds = Field(300.0, gt=0, le=1e6)
    """Longest wait until all workers are there, also in a queue."""
    dashboard: bool = False
    """Whether to run Dask's dashboard, with bokeh; its address is logged."""
    combined_log: bool = False
    """Whether the workers' logs become one file, logs/workers.log, at the end."""

    @property
    def walltime_s(self) -> int:
        days, _, clock = self.walltime.rpartition("-")
        hours, minutes, seconds = map(int, clock.split(":"))
        return 86_400 * int(days or 0) + 3600 * hours + 60 * minutes + seconds


@dataclass(frozen=True, slots=True)
class _Conflict:
    """Values that do not go together; the first path is blamed."""

    paths: tuple[str, ...]
    value: object
    must: str

    def __str__(self) -> str:
        return f"{self.paths[0]} = {_shown(self.value)}: must be {self.must}"


class Parameters(_Group):
    """Parameters of a `batch_imaging` processing block; all are optional."""

    model_config = ConfigDict(title="batch_imaging")

    n_workers: int = Field(2, ge=1, le=10000)
    """Dask workers."""
    freq_min: Hertz = Field(0.9e8, ge=1e6, le=1e12)
    """Centre of the first frequency window."""
    freq_max: Hertz = Field(1.1e8, ge=1e6, le=1e12)
    """Centre of the last frequency window."""
    nfreqwin: int = Field(8, ge=1, le=65536)
    """Frequency windows, equally spaced. A single one stands in the middle between freq_min and
    freq_max and is as wide as their difference, or 1 % of the frequency if they are equal."""
    ntimes: int = Field(5, ge=1, le=100_000)
    """Integrations, equally spaced in hour angle."""
    rmax: Metres = Field(750.0, gt=0, le=1e7)
    """Largest distance of a station from the centre of the array."""
    ra: Degrees = Field(0.0, ge=-360, le=360)
    """Right ascension of the phase centre, ICRS."""
    dec: Degrees = Field(-30.0, ge=-90, le=90)
    """Declination of the phase centre, ICRS."""
    buffer_vis: BufferName | None = None
    """Buffer of the visibilities; null stands for buff-<pb_id>-vis."""
    buffer_img: BufferName | None = None
    """Buffer of the images; null stands for buff-<pb_id>-img."""
    buffer_vis_size: QuantityText | None = None
    """Size of the buffer of the visibilities, if it is made; null for what the run needs and a
    quarter more, in whole Gi."""
    buffer_img_size: QuantityText | None = None
    """Size of the buffer of the images, likewise. If both are one buffer, the larger size holds."""
    buffer_class: StorageClass | None = None
    """Storage class of buffers that are made; null for the installation's."""
    retain: bool = True
    """Whether buffers that are made for this block stay when it has ended."""
    simulation: Simulation = Field(default_factory=Simulation)
    """The observation that is simulated."""
    imaging: Imaging = Field(default_factory=Imaging)
    """The grid and weights of all images."""
    ical: Ical = Field(default_factory=Ical)
    """Self-calibration and deconvolution."""
    spectral: Spectral = Field(default_factory=Spectral)
    """Images of every channel."""
    input: Input = Field(default_factory=Input)
    """Measurement Sets to image instead of a simulation."""
    image: Image | None = None
    """Images of the input along an axis, as `batch-imaging image` makes them, with continuum
    subtraction and moments; null for ICAL and images of every channel."""
    engine: Engine = Field(default_factory=Engine)
    """Who runs the workers, and how."""

    @property
    def freq_hz(self) -> NDArray[np.float64]:
        """(nfreqwin,) centres of the frequency windows."""
        if self.nfreqwin == 1:
            return np.array([(self.freq_min + self.freq_max) / 2])
        return np.linspace(self.freq_min, self.freq_max, self.nfreqwin)

    @property
    def chan_width_hz(self) -> NDArray[np.float64]:
        """(nfreqwin,) widths of the frequency windows."""
        width_hz = (self.freq_max - self.freq_min) / max(self.nfreqwin - 1, 1)
        return np.full(self.nfreqwin, width_hz or 0.01 * self.freq_min)

    @property
    def hour_angles_rad(self) -> NDArray[np.float64]:
        """(ntimes,) hour angles of the phase centre at the middle of each integration."""
        first, last = self.simulation.hour_angle_min, self.simulation.hour_angle_max
        if self.ntimes == 1:
            return np.deg2rad([(first + last) / 2])
        return np.deg2rad(np.linspace(first, last, self.ntimes))

    @property
    def phase_centre(self) -> Direction:
        return Direction.from_degrees(self.ra, self.dec)

    @property
    def cell_rad(self) -> float:
        return self.imaging.cellsize

    def with_buffers(self, pb_id: str) -> "Parameters":
        """Return the same parameters with the names of both buffers filled in."""
        img = self.buffer_img or kubernetes_name(f"buff-{pb_id}-img")
        # Nothing is simulated where there is an input.
        own_vis = img if self.input.buffer else kubernetes_name(f"buff-{pb_id}-vis")
        names = {"buffer_vis": self.buffer_vis or own_vis, "buffer_img": img}
        return load_parameters(self.model_dump() | names)

    @model_validator(mode="after")
    def _refuse_conflicts(self) -> "Parameters":
        if conflicts := tuple(self._conflicts()):
            text = "; ".join(map(str, conflicts))
            raise PydanticCustomError("conflict", "{text}", {"text": text, "conflicts": conflicts})
        return self

    def _conflicts(self) -> Iterator[_Conflict]:
        several_windows, several_times = self.nfreqwin > 1, self.ntimes > 1
        if self.freq_min > self.freq_max or (several_windows and self.freq_min == self.freq_max):
            yield _Conflict(
                ("freq_min", "freq_max", "nfreqwin"),
                self.freq_min,
                f"below freq_max = {_shown(self.freq_max)} Hz (equal only with nfreqwin = 1)",
            )
        first, last = self.simulation.hour_angle_min, self.simulation.hour_angle_max
        if first > last or (several_times and first == last):
            yield _Conflict(
                ("simulation.hour_angle_min", "simulation.hour_angle_max", "ntimes"),
                first,
                f"below hour_angle_max = {_shown(last)} deg (equal only with ntimes = 1)",
            )
        elif self.simulation.array == "ska1-low" and self.dec >= (limit := self._dec_limit_deg()):
            yield _Conflict(
                (
                    "dec",
                    "ntimes",
                    "simulation.array",
                    "simulation.hour_angle_min",
                    "simulation.hour_angle_max",
                ),
                self.dec,
                f"below {limit:.2f} deg: SKA1-Low at latitude {SKA1_LOW_LATITUDE_DEG} deg has the "
                f"phase centre under its horizon at all hour angles from {first:g} to {last:g} deg",
            )
        nmajor, context = self.ical.stopping.max_nmajor, self.ical.calibration_context
        last_begin = self.ical.first_selfcal + CONTEXT_DELAY.get(context[-1:], 0)
        if context and nmajor < last_begin:
            yield _Conflict(
                ("ical.nmajor", "ical.first_selfcal", "ical.calibration_context", "ical.preset"),
                nmajor,
                f"at least {last_begin}, the major cycle in which {context[-1]} of "
                f"ical.calibration_context is first solved for with ical.first_selfcal = "
                f"{self.ical.first_selfcal}",
            )
        yield from self._input_conflicts()
        # The corners of the image must be on the sky: l² + m² < 1.
        cell_limit_rad = math.sqrt(2) / self.imaging.npixel
        if self.cell_rad >= cell_limit_rad:
            yield _Conflict(
                ("imaging.cellsize", "imaging.npixel"),
                self.cell_rad,
                f"below {cell_limit_rad:.4g} rad, where {self.imaging.npixel} pixels span the "
                "whole hemisphere",
            )

    def _input_conflicts(self) -> Iterator[_Conflict]:
        image, defaults = self.image, Input()
        if image is None:
            for name in ("column", "field", "spw", "channels", "times"):
                value = getattr(self.input, name)
                if value != getattr(defaults, name):
                    yield _Conflict((f"input.{name}", "image"), value, "left out without `image`")
            return
        if self.input.buffer is None:
            yield _Conflict(
                ("input.buffer", "image"), None, "the buffer with the sets that `image` is about"
            )
        if image.velocities and image.frame is None:
            yield _Conflict(
                ("image.velocities", "image.frame"),
                image.velocities,
                "left out, or in a frame that image.frame names",
            )
        for name in ("mask", "mask_sigma"):
            value = getattr(image, name)
            if value is not None and not image.clean:
                yield _Conflict((f"image.{name}", "image.clean"), value, "left out: no cleaning")

    def _dec_limit_deg(self) -> float:
        """Return the declination that just touches SKA1-Low's horizon at the best of the times.

        From sin(altitude) = sin φ sin δ + cos φ cos δ cos H with altitude 0.
        """
        cos_hour_angle = float(np.cos(self.hour_angles_rad).max())
        return math.degrees(
            math.atan2(cos_hour_angle, -math.tan(math.radians(SKA1_LOW_LATITUDE_DEG)))
        )


def _unless_auto(value: Auto | Number, preset: Number | None) -> Number | None:
    return preset if isinstance(value, str) else value


_PLACES = {
    *("n_workers", "buffer_vis", "buffer_img", "buffer_vis_size", "buffer_img_size"),
    *("buffer_class", "retain", "engine"),
}


def parameter_hash(parameters: Parameters) -> str:
    """Return 16 hexadecimal digits that are equal where parameters ask for equal products.

    Who makes them and where they go does not count.
    """
    values = parameters.model_dump(exclude=_PLACES)
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


# --- reading ---


@dataclass(frozen=True, slots=True)
class _Repeated:
    """Stands in a JSON object for the values of a key that was given more than once."""

    values: tuple[object, ...]


def load_parameters(
    source: Path | Mapping[str, object] | str, settings: Iterable[str] = ()
) -> Parameters:
    """Read parameters and check them.

    Parameters
    ----------
    source: a JSON file, JSON text, or what was read from either.
    settings: assignments "imaging.npixel=512" that win over the source; values are JSON, or
        else plain strings.

    Raises
    ------
    ParameterError: one line for each mistake.
    """
    document = _read_document(source)
    for setting in settings:
        _assign(document, setting)
    if mistakes := _mistakes(document):
        raise ParameterError("\n".join(mistakes))
    return Parameters.model_validate(document)


def _read_document(source: Path | Mapping[str, object] | str) -> dict[str, object]:
    if isinstance(source, Mapping):
        return {
            str(name): dict(value) if isinstance(value, Mapping) else value
            for name, value in source.items()
        }
    name = "parameters"
    if isinstance(source, Path):
        name = str(source)
        try:
            source = source.read_text(encoding="utf-8-sig")
        except OSError as error:
            reason = error.strerror or error
            raise ParameterError(f"{name}: cannot be read: {reason}") from error
        except UnicodeDecodeError as error:
            raise ParameterError(f"{name}: is not UTF-8 text, so not JSON") from error
    try:
        document = json.loads(source, object_pairs_hook=_object_from_pairs)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ParameterError(f"{name}: not valid JSON at {place}: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits; deep nesting
        raise ParameterError(f"{name}: JSON that cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise ParameterError(f"{name} = {_shown(document)}: must be a JSON object, {{…}}")
    return document


def _object_from_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, list[object]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return {name: v[0] if len(v) == 1 else _Repeated(tuple(v)) for name, v in values.items()}


def _assign(document: dict[str, object], setting: str) -> None:
    path, equals, text = setting.partition("=")
    if not path or not equals:
        raise ParameterError(f"--set {setting}: must be PATH=VALUE, as in imaging.npixel=512")
    *groups, name = path.strip().split(".")
    for group in groups:
        inner = document.get(group)
        if not isinstance(inner, dict):
            inner = document[group] = {}
        document = inner
    try:
        document[name] = json.loads(text, object_pairs_hook=_object_from_pairs)
    except (ValueError, RecursionError):
        document[name] = text


# --- mistakes ---


def _mistakes(document: dict[str, Any]) -> list[str]:
    """Return a line for each mistake.

    Conflicts are found only between values that are right by themselves. So that one run names all
    mistakes, wrong values are left out for a second look.
    """
    errors = _errors(document)
    wrong = {_path_of(error["loc"]): error["type"] for error in errors if error["loc"]}
    if wrong:
        errors = _errors(_without(document, wrong))
    excused = {".".join(path) for path in wrong}
    return [_wrong_line(path, kind, document) for path, kind in wrong.items()] + [
        str(conflict)
        for error in errors
        for conflict in error["ctx"]["conflicts"]
        if not any({path, path.partition(".")[0]} & excused for path in conflict.paths)
    ]


def _errors(document: dict[str, Any]) -> list[Any]:
    try:
        Parameters.model_validate(document)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _path_of(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """Cut what pydantic appends for members of a union and items of a list."""
    names = tuple(map(str, location))
    return names[:2] if _members(names[0]) else names[:1]


def _without(document: dict[str, Any], paths: Iterable[tuple[str, ...]]) -> dict[str, Any]:
    kept = {k: dict(v) if isinstance(v, dict) else v for k, v in document.items()}
    for *group, name in paths:
        owner = kept[group[0]] if group else kept
        del owner[name]
    return kept


def _wrong_line(path: tuple[str, ...], kind: str, document: dict[str, Any]) -> str:
    *group, name = path
    value = document[group[0]][name] if group else document[name]
    where = ".".join(part if part.isidentifier() else json.dumps(part) for part in path)
    line = f"{where} = {_shown(value)}"
    if kind == "extra_forbidden":
        known = f"{group[0] if group else 'the top level'} has {', '.join(_members(*group))}"
        return f"{line}: unknown; {known}{_hint(nearest_path(path))}"
    if isinstance(value, _Repeated):
        return f"{line}: given {len(value.values)} times; keep one"
    entry = catalogue()[where]
    close = difflib.get_close_matches(value, entry.choices, n=1) if isinstance(value, str) else []
    return f"{line}: must be {entry.allowed}{_hint(*close)}"


def _hint(name: str | None = None) -> str:
    return f" (did you mean '{name}'?)" if name else ""


def _shown(value: object) -> str:
    if isinstance(value, _Repeated):
        return " and ".join(map(_shown, value.values))
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else f"{text[:59]}…"


def nearest_path(path: tuple[str, ...]) -> str | None:
    """Return the parameter that was probably meant, near in name or of this name elsewhere."""
    *group, name = path
    by_name = {known.rpartition(".")[2]: known for known in reversed(list(catalogue()))}
    beside = {inner: ".".join([*group, inner]) for inner in _members(*group)}
    by_path = {known: known for known in catalogue()}
    for names in (by_name, by_path):
        if name in names:
            return names[name]
    for names in (beside, by_name, by_path):
        if close := difflib.get_close_matches(name.lower(), names, n=1):
            return names[close[0]]
    return None


def _members(group: str = "") -> list[str]:
    """Return the names of the parameters of a group, or of the top level."""
    prefix = f"{group}." if group else ""
    names = [path.removeprefix(prefix) for path in catalogue() if path.startswith(prefix)]
    return [name for name in names if "." not in name]


# --- schema and documentation ---


class _SchemaGenerator(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: object) -> bool:
        return False  # a title that repeats the name says nothing


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known about one parameter, or group of parameters, in words."""

    path: str
    kind: str
    unit: str
    default: str
    limits: str
    allowed: str
    choices: tuple[str, ...]
    description: str


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of the parameters, draft 2020-12."""
    schema = Parameters.model_json_schema(schema_generator=_SchemaGenerator)
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"urn:batch-imaging:parameters:{SCHEMA_VERSION}",
        "version": SCHEMA_VERSION,
        **schema,
    }


def schema_text() -> str:
    """Return the JSON schema as it is committed."""
    return json.dumps(json_schema(), indent=2) + "\n"


@cache
def catalogue() -> Mapping[str, Entry]:
    """Return every parameter and group by its path."""
    schema = json_schema()
    entries = {}
    for name, field in schema["properties"].items():
        group = next((each for each in (field, *field.get("anyOf", ())) if "$ref" in each), None)
        if group is None:
            entries[name] = _entry(name, field)
            continue
        members = schema["$defs"][group["$ref"].rpartition("/")[2]]["properties"]
        entries[name] = _group_entry(name, field["description"], members)
        for inner, inner_field in members.items():
            entries[f"{name}.{inner}"] = _entry(f"{name}.{inner}", inner_field)
    return entries


def _group_entry(name: str, description: str, members: Iterable[str]) -> Entry:
    limits = ", ".join(members)
    allowed = f"an object {{…}} of {limits}"
    return Entry(name, "object", "", "{}", limits, allowed, (), description)


def _entry(path: str, field: dict[str, Any]) -> Entry:
    options = field.get("anyOf", [field])
    return Entry(
        path=path,
        kind=" or ".join(dict.fromkeys(_kind(option) for option in options)),
        unit=next((option["unit"] for option in (field, *options) if "unit" in option), ""),
        default=json.dumps(field["default"]),
        limits=" or ".join(filter(None, map(_limits, options))),
        allowed=" or ".join(map(_allowed, options)),
        choices=tuple(
            choice
            for option in options
            for choice in option.get("enum", [option["const"]] if "const" in option else [])
        ),
        description=" ".join(field["description"].split()),
    )


def _kind(option: dict[str, Any]) -> str:
    if "const" in option:
        return f"'{option['const']}'"
    if option["type"] == "array":
        return f"list of {option['items']['type']}s"
    return f"{'even ' if 'multipleOf' in option else ''}{option['type']}"


def _limits(option: dict[str, Any]) -> str:
    """Say which values of a type are allowed."""
    if "enum" in option:
        *others, last = (f"'{choice}'" for choice in option["enum"])
        return f"{', '.join(others)} or {last}"
    if "items" in option:
        size = f"{option['minItems']} to {option['maxItems']} values"
        return f"{size}, each {_limits(option['items'])}"
    if "minimum" in option and "maximum" in option:
        return f"from {_number(option['minimum'])} to {_number(option['maximum'])}"
    bounds = {
        "exclusiveMinimum": "above",
        "minimum": "at least",
        "exclusiveMaximum": "below",
        "maximum": "at most",
    }
    words = [f"{word} {_number(option[key])}" for key, word in bounds.items() if key in option]
    return " and ".join(words) or option.get("allowed", "")


def _allowed(option: dict[str, Any]) -> str:
    """Say what a value must be, to follow the words "must be"."""
    kind, limits = _kind(option), _limits(option)
    if kind == "boolean":
        return "true or false"
    if "const" in option or kind == "null":
        return kind
    if kind == "string":
        return limits
    if "items" in option:
        kind += ","
    article = "an" if kind[0] in "aeiou" else "a"
    return " ".join(filter(None, (article, kind, limits, option.get("unit"))))


def _number(value: float) -> str:
    """Write a bound the short way, if it is as exact: 65536, 0.05, 1e12, 4294967295."""
    short = f"{value:g}"
    return re.sub(r"e\+?(-?)0*", r"e\1", short) if float(short) == value else str(value)


def explain(path: str) -> str:
    """Describe a parameter, or the members of a group, in a few lines."""
    entry = catalogue().get(path)
    if entry is None:
        hint = _hint(nearest_path(tuple(path.split("."))))
        raise ParameterError(f"{path}: no such parameter{hint}")
    rows = {
        "type": entry.kind,
        "unit": entry.unit,
        "default": entry.default,
        "range": entry.limits,
    }
    if members := _members(path):
        rows = {name: catalogue()[f"{path}.{name}"].description for name in members}
    width = max(map(len, rows))
    lines = [f"  {name:{width}}  {text}" for name, text in rows.items() if text]
    return "\n".join([f"{path}: {entry.description}", *lines])


def parameters_markdown() -> str:
    """Return the reference page of the parameters."""
    rows = [
        f"| `{e.path}` | {e.kind} | {e.unit} | `{e.default}` | {e.limits} | {e.description} |"
        for e in catalogue().values()
        if e.kind != "object"
    ]
    text = "\n".join(
        [
            "# Parameters",
            "",
            "A JSON object; every parameter is optional. A dot stands for nesting: "
            '`imaging.npixel` is `{"imaging": {"npixel": 1024}}`.',
            "Made by `batch-imaging schema --markdown`; change `parameters.py` instead.",
            "",
            "| parameter | type | unit | default | range | meaning |",
            "|---|---|---|---|---|---|",
            *rows,
        ]
    )
    return text.replace("buff-<pb_id>", "buff-&lt;pb_id&gt;") + "\n"
