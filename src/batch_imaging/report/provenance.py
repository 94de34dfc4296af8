"""provenance.json: from what, with what, where and when a run's products were made."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import batch_imaging
from batch_imaging.io.fits_image import publishing
from batch_imaging.parameters import SCHEMA_VERSION, parameter_hash
from batch_imaging.report.fingerprint import Fingerprint
from batch_imaging.report.run_record import RunRecord

FILE_NAME = "provenance.json"
PACKAGES = (
    "batch-imaging",
    "dask",
    "distributed",
    "numpy",
    "scipy",
    "astropy",
    "ducc0",
    "radler",
    "python-casacore",
    "matplotlib",
)


def make_provenance(run: RunRecord, fingerprints: Mapping[Path, Fingerprint]) -> dict[str, Any]:
    """Return the document; docs/report.md describes its keys."""
    inputs = set(run.input_sets)
    return {
        "pb_id": run.identity.pb_id or None,
        "eb_id": run.identity.eb_id or None,
        "started": iso(run.started),
        "finished": iso(run.finished),
        "outcome": run.outcome,
        "error": run.error or None,
        "engine": run.engine,
        "n_workers": run.parameters.n_workers,
        "parameters": run.parameters.model_dump(mode="json"),
        "parameter_hash": parameter_hash(run.parameters),
        "parameter_schema_version": SCHEMA_VERSION,
        "seeds": {} if run.sets else {"simulation": run.parameters.simulation.seed},
        "versions": package_versions(),
        "git_commit": git_commit(),
        "host": host_class(),
        "stages": [
            {"name": stage.name, "units": stage.units, "wall_s": round(stage.wall_s, 3)}
            for stage in run.stages
        ],
        "inputs": [_file(path, mark) for path, mark in fingerprints.items() if path in inputs],
        "products": [
            _file(path, mark) for path, mark in fingerprints.items() if path not in inputs
        ],
    }


def write_provenance(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write ``provenance.json``.

    Raises
    ------
    ProductError: it could not be written.
    """
    path = folder / FILE_NAME
    with publishing(path) as partial:
        partial.write_text(json.dumps(document, indent=1) + "\n")
    return path


def _file(path: Path, mark: Fingerprint) -> dict[str, Any]:
    return {"name": path.name, "size_bytes": mark.size_bytes, "sha256": mark.sha256}


def iso(moment: datetime) -> str:
    """Return UTC as 2020-05-23T12:00:00.000Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@cache
def git_commit() -> str | None:
    """Return the commit this package runs from, with "-dirty" if changed; None if installed.

    An environment may live inside the checkout of something else: git must know our own files.
    """
    package = Path(batch_imaging.__file__)
    if _git(package.parent, "ls-files", "--error-unmatch", package.name) is None:
        return None
    return _git(package.parent, "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            env=os.environ | {"GIT_OPTIONAL_LOCKS": "0"},  # look only
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


@cache
def host_class() -> dict[str, Any]:
    """Describe the kind of machine, never which one it is."""
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu_model": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, None)
