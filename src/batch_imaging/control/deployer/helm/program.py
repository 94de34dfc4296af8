"""The program helm, of version 3.13 or later, also 4."""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from batch_imaging.errors import ControlError, PassingFailure, SettingError

PASSING = re.compile(
    r"another operation|being deleted|connection re(fused|set)|context deadline|conflict|\bEOF\b"
    r"|etcdserver|has been modified|internal (server )?error|leader changed|no route to host"
    r"|no such host|rate limit|terminated|time-?out|timed out|too many requests|unavailable"
    r"|unable to handle|unreachable",
    re.IGNORECASE,
)
NOISE = re.compile(r"^(W\d{4} |WARNING|level=|time=|I\d{4} )")
GRACE_S = 5.0


class Helm:
    """Runs helm in a namespace, each time with a deadline.

    Parameters
    ----------
    program: its name or path.
    """

    def __init__(self, program: str, namespace: str, timeout_s: float) -> None:
        self._program = program
        self._namespace = namespace
        self._timeout_s = timeout_s

    def upgrade(
        self, release: str, chart: Path, values: Mapping[str, Any], labels: Mapping[str, str]
    ) -> None:
        """Install a release, or change it; do not wait for what its objects become.

        Parameters
        ----------
        labels: of the release; those that it has stay.

        Raises
        ------
        PassingFailure: it may well work in a while.
        ControlError: helm or Kubernetes refuse it, in their words.
        """
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(dict(values), file)
            file.flush()
            self._run(
                *("upgrade", "--install", release, str(chart), "--values", file.name),
                *(f"--labels={key}={value}" for key, value in labels.items()),
                *("--history-max", "2"),
            )

    def uninstall(self, release: str) -> None:
        """Remove a release if it is there; its objects may go on for a while.

        Raises
        ------
        ControlError: as by `upgrade`.
        """
        self._run("uninstall", release, "--ignore-not-found")

    def _run(self, *arguments: str) -> None:
        options = ("--namespace", self._namespace, "--timeout", f"{self._timeout_s:g}s")
        try:
            subprocess.run(
                [self._program, *arguments, *options],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._timeout_s + GRACE_S,
                check=True,
            )
        except FileNotFoundError as error:
            raise SettingError(
                f"{self._program}: there is no such program; install Helm, or set SDP_HELM"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise PassingFailure(
                f"helm {arguments[0]} did not end within {self._timeout_s:g} s (SDP_HELM_TIMEOUT)"
            ) from error
        except subprocess.CalledProcessError as error:
            reason = reason_of(error.stderr) or f"it said nothing, exit code {error.returncode}"
            kind = PassingFailure if PASSING.search(reason) else ControlError
            raise kind(f"helm {arguments[0]}: {reason}") from error


def reason_of(stderr: str) -> str:
    """Return what helm complains of, in one line."""
    lines = [line for line in stderr.splitlines() if not NOISE.match(line)]
    return " ".join(" ".join(lines).split()).removeprefix("Error: ")
