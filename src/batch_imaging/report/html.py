"""report/index.html: one file that needs no other and no network."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from batch_imaging import __version__
from batch_imaging.execution.worker_logs import COMBINED, LOGS, PATTERN
from batch_imaging.parameters import Image, Parameters, catalogue, parameter_hash
from batch_imaging.report.fingerprint import Fingerprint
from batch_imaging.report.numbers import brightness, fixed, significant, storage, thousands
from batch_imaging.report.pictures import Picture
from batch_imaging.report.provenance import git_commit, host_class, iso, package_versions
from batch_imaging.report.quality import PlaneQuality
from batch_imaging.report.run_record import RunRecord
from batch_imaging.report.summary import ARCSEC, RunQuality

FOLDED_ABOVE_ROWS = 24


@dataclass(frozen=True, slots=True)
class Headline:
    """A number to be seen first, what it is, and a remark."""

    value: str
    unit: str
    name: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text; columns from the second on are numbers, aligned to the right.

    Attributes
    ----------
    bars: one a row from 0 to 1, drawn behind the last cell; or empty.
    marked: rows to make stand out.
    n_words: columns at the left that hold words, not numbers.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    bars: tuple[float, ...] = ()
    marked: frozenset[int] = frozenset()
    n_words: int = 1
    folded: bool = False


def render_report(
    run: RunRecord,
    quality: RunQuality,
    pictures: Sequence[Picture],
    fingerprints: Mapping[Path, Fingerprint],
) -> str:
    """Return the page."""
    return _template().render(
        run=run,
        subtitle=" · ".join(_subtitle(run)),
        headlines=list(_headlines(run, quality)),
        pictures=[(p, base64.b64encode(p.png).decode("ascii")) for p in pictures],
        tables=[table for table in _tables(run, quality, fingerprints) if table.rows],
        logs=_logs(run),
        version=__version__,
        parameter_hash=parameter_hash(run.parameters),
    )


def _logs(run: RunRecord) -> list[str]:
    """Return the logs of the workers, relative to the page."""
    if run.parameters.engine.combined_log:  # they are combined when the run has ended
        return [f"../{LOGS}/{COMBINED}"]
    return sorted(f"../{LOGS}/{path.name}" for path in (run.buffers.img / LOGS).glob(PATTERN))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("batch_imaging.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html.j2")


def _subtitle(run: RunRecord) -> Iterable[str]:
    yield iso(run.started)[:19].replace("T", " ") + " UTC"
    if run.identity.pb_id:
        yield run.identity.pb_id
    if run.result.ical:
        info = run.result.ical.observation.infos[0]
        yield f"{info.stations.array_name}, {len(info.stations)} stations"
        yield f"{info.n_integrations} integrations of {info.integration_s:g} s"
        freq_mhz = run.result.ical.observation.freq_hz / 1e6
        yield f"{len(freq_mhz)} windows, {freq_mhz[0]:.4g} to {freq_mhz[-1]:.4g} MHz"


# ---------------------------------------------------------------------------------- headlines


def _headlines(run: RunRecord, quality: RunQuality) -> Iterable[Headline]:
    if quality.windows:
        yield from _image_headlines(quality)
    if quality.phase:
        yield Headline(
            significant(1e3 * quality.phase.rms_rad, 3),
            "mrad",
            "station phase error, rms",
            "common phase and shift removed",
        )
    if quality.sources and (fits := quality.sources[quality.chosen]):
        off = [abs(fit.ratio - 1) for fit in fits]
        missing = sum(not math.isfinite(value) for value in off)
        worst = max((value for value in off if math.isfinite(value)), default=math.nan)
        yield Headline(
            significant(100 * worst, 2),
            "%",
            f"flux error, worst of {len(fits)}",
            f"{missing} of them not found" if missing else "restored against true",
        )
    yield Headline(f"{run.wall_s:.1f}", "s", "wall clock", f"engine {run.engine}")
    if run.peak_rss_bytes:
        total = sum(run.peak_rss_bytes.values())
        yield Headline(*storage(total), "peak memory", "all processes together")


def _image_headlines(quality: RunQuality) -> Iterable[Headline]:
    plane = quality.windows[quality.chosen]
    ranges = [p.dynamic_range for p in quality.windows if math.isfinite(p.dynamic_range)]
    freq = f"{plane.freq_hz / 1e6:.2f} MHz"
    yield Headline(significant(plane.peak_jy), "Jy/beam", "peak", f"at {freq}")
    yield Headline(
        thousands(plane.dynamic_range),
        "",
        "dynamic range",
        f"windows: {thousands(min(ranges))} to {thousands(max(ranges))}" if ranges else "",
    )
    expected = (
        f"{fixed(plane.rms_jy / plane.theory_jy, 2)} × thermal noise"
        if plane.theory_jy
        else f"robust: {' '.join(brightness(plane.noise_jy))}"
    )
    yield Headline(*brightness(plane.rms_jy), "residual rms", expected)


# ------------------------------------------------------------------------------------- tables


def _tables(
    run: RunRecord, quality: RunQuality, fingerprints: Mapping[Path, Fingerprint]
) -> Iterable[Table]:
    yield _source_table(quality)
    yield _plane_table("ICAL windows", quality.windows, quality.chosen)
    yield _plane_table("Channels of the spectral cube", quality.channels)
    yield _cycle_table(run)
    yield _stage_table(run)
    yield _memory_table(run)
    yield _parameter_table(run.parameters)
    yield _version_table()
    yield _file_table(run, fingerprints)


def _source_table(quality: RunQuality) -> Table:
    fits = quality.sources[quality.chosen] if quality.sources else ()
    return Table(
        f"The {len(fits)} brightest sources",
        (
            "source",
            "RA / deg",
            "Dec / deg",
            "true / Jy",
            "restored / Jy",
            "restored / true",
            "east / ″",
            "north / ″",
            "offset / beam",
        ),
        tuple(
            (
                fit.name,
                f"{math.degrees(fit.ra_rad):.4f}",
                f"{math.degrees(fit.dec_rad):+.4f}",
                f"{fit.true_jy:.4f}",
                fixed(fit.restored_jy, 4),
                fixed(fit.ratio, 4),
                fixed(fit.east_rad * ARCSEC, 2),
                fixed(fit.north_rad * ARCSEC, 2),
                fixed(fit.offset_beams, 3),
            )
            for fit in fits
        ),
        note="Apparent flux densities at the frequency of the restored image. A shift that all "
        "sources share is one that self-calibration cannot know.",
    )


def _plane_table(title: str, planes: Sequence[PlaneQuality], chosen: int = -1) -> Table:
    with_noise = any(math.isfinite(plane.noise_jy) for plane in planes)
    with_theory = any(plane.theory_jy is not None for plane in planes)
    columns = [
        "",
        "frequency / MHz",
        "beam / ′",
        "PA / deg",
        "peak / (Jy/beam)",
        "rms / (mJy/beam)",
    ]
    columns += ["robust noise / (mJy/beam)"] if with_noise else []
    columns += ["thermal noise / (mJy/beam)"] if with_theory else []
    rows = []
    for index, plane in enumerate(planes):
        beam = plane.beam
        arcmin = ARCSEC / 60
        row = [
            str(index),
            f"{plane.freq_hz / 1e6:.3f}",
            f"{beam.bmaj_rad * arcmin:.2f} × {beam.bmin_rad * arcmin:.2f}" if beam else "–",
            f"{math.degrees(beam.bpa_rad):.1f}" if beam else "–",
            significant(plane.peak_jy),
            significant(1e3 * plane.rms_jy),
        ]
        row += [significant(1e3 * plane.noise_jy)] if with_noise else []
        row += [significant(1e3 * (plane.theory_jy or math.nan))] if with_theory else []
        rows.append((*row, thousands(plane.dynamic_range)))
    return Table(
        title,
        (*columns, "dynamic range"),
        tuple(rows),
        marked=frozenset({chosen}),
        folded=len(planes) > FOLDED_ABOVE_ROWS,
    )


def _cycle_table(run: RunRecord) -> Table:
    ical = run.result.ical
    cycles = ical.cycles if ical else ()
    return Table(
        "Major cycles",
        (
            "cycle",
            "gains",
            "peak / (mJy/beam)",
            "rms / (mJy/beam)",
            "robust noise / (mJy/beam)",
            "minor iterations",
            "components",
        ),
        tuple(
            (
                str(cycle.index),
                cycle.context or "–",
                significant(1e3 * cycle.peak_jy),
                significant(1e3 * cycle.rms_jy),
                significant(1e3 * cycle.noise_jy),
                str(cycle.iterations),
                str(cycle.components),
            )
            for cycle in cycles
        ),
        note=f"Stopped: {ical.stopped_because}. Numbers are those of the residual at the start of "
        "a cycle, over all windows."
        if ical
        else "",
        n_words=2,
    )


def _stage_table(run: RunRecord) -> Table:
    total_s = sum(stage.wall_s for stage in run.stages)
    return Table(
        "Stages",
        ("stage", "units", "seconds"),
        tuple((s.name, str(s.units), f"{s.wall_s:.2f}") for s in run.stages),
        note=f"{total_s:.1f} s in stages of {run.wall_s:.1f} s in all.",
        bars=tuple(stage.wall_s / (total_s or 1) for stage in run.stages),
    )


def _memory_table(run: RunRecord) -> Table:
    peaks = run.peak_rss_bytes
    most = max(peaks.values(), default=1)
    return Table(
        "Memory",
        ("process", "peak"),
        tuple(
            (process.rpartition(":")[2], " ".join(storage(size))) for process, size in peaks.items()
        ),
        note=f"Resident memory at its highest, together {' '.join(storage(sum(peaks.values())))}.",
        bars=tuple(size / most for size in peaks.values()),
    )


def _parameter_table(parameters: Parameters) -> Table:
    rows, marked = [], set()
    values = _flat(parameters.model_dump(mode="json"))
    defaults = _flat(Parameters().model_dump(mode="json") | {"image": Image().model_dump()})
    entries = catalogue()
    for index, (path, value) in enumerate(values.items()):
        if value != defaults.get(path, ""):
            marked.add(index)
        rows.append((path, value, entries[path].unit, defaults.get(path, "")))
    return Table(
        f"Parameters ({len(marked)} of {len(rows)} differ from their defaults)",
        ("parameter", "value", "unit", "default"),
        tuple(rows),
        marked=frozenset(marked),
        n_words=4,
        folded=True,
    )


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    flat = {}
    for name, value in values.items():
        inner = value if isinstance(value, dict) else None
        paths = {name: value} if inner is None else {f"{name}.{k}": v for k, v in inner.items()}
        flat.update({path: "" if v is None else str(v) for path, v in paths.items()})
    return flat


def _version_table() -> Table:
    host = host_class()
    machine = f"{host['cpu_model'] or host['machine']}, {host['cores']} cores, "
    return Table(
        "Versions and machine",
        ("what", "version"),
        (
            *package_versions().items(),
            ("git commit", git_commit() or "not in a checkout"),
            ("machine", machine + " ".join(storage(host["memory_bytes"]))),
        ),
        n_words=2,
        folded=True,
    )


def _file_table(run: RunRecord, fingerprints: Mapping[Path, Fingerprint]) -> Table:
    roots = (run.buffers.img, run.buffers.vis)
    return Table(
        "Files",
        ("file", "size", "SHA-256"),
        tuple(
            (_short(path, roots), " ".join(storage(mark.size_bytes)), mark.sha256)
            for path, mark in fingerprints.items()
        ),
        note="A Measurement Set's checksum runs over all its files; docs/report.md says how.",
        folded=True,
    )


def _short(path: Path, roots: Sequence[Path]) -> str:
    root = next((root for root in roots if path.is_relative_to(root)), None)
    return f"{root.name}/{path.relative_to(root)}" if root else path.name
