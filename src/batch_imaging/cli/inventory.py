"""What an installation is made of: the program, its libraries and the programs it calls."""

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from batch_imaging import __version__

MISSING = "missing"
PROGRAMS = {
    "etcd": ["--version"],
    "helm": ["version", "--short"],
    "kubectl": ["version", "--client"],
}
PROGRAM_DEADLINE_S = 10.0


def installed_parts() -> Iterator[tuple[str, str]]:
    """Yield names and versions without an import of what they name.

    The commit is known where the environment tells it, as that of the image does.
    """
    yield "batch-imaging", __version__
    yield "commit", os.environ.get("BATCH_IMAGING_REVISION") or "unknown"
    yield "python", platform.python_version()
    for name in _libraries():
        yield name, _library_version(name)
    for name in PROGRAMS:
        yield name, _program_version(name)


def _libraries() -> list[str]:
    """Return what the project asks for, extras too, and the tables that decide all coordinates."""
    asked_for = (re.match(r"[\w.-]+", text) for text in requires("batch-imaging") or ())
    return sorted({"astropy-iers-data", *(name[0] for name in asked_for if name)})


def _library_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return MISSING


def _program_version(name: str) -> str:
    program = shutil.which(name)
    if program is None:
        return MISSING
    try:
        answer = subprocess.run(
            [program, *PROGRAMS[name]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
            timeout=PROGRAM_DEADLINE_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}"
    found = re.search(r"\d+\.\d+\.\d+[\w.+-]*", answer.stdout)
    return found[0] if found else f"unknown: {program} does not tell"
