"""The program kubectl, each run of it with a deadline."""

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, RawIOBase
from typing import IO, Any

from batch_imaging.control.fetch.transfer import SourceLost
from batch_imaging.errors import ControlError

DEADLINE_S = 30.0
STALL_S = 60.0
"""How long a stream may stand still before it counts as broken."""


class Kubectl:
    """Runs kubectl in one namespace. Ctrl-C reaches us alone: we may need it to clean up."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def run(self, *arguments: str, standard_input: str = "") -> str:
        """Return what a command prints.

        Raises
        ------
        ControlError: it fails, with its last line, or takes too long.
        """
        try:
            done = subprocess.run(
                self._command(arguments),
                input=standard_input,
                capture_output=True,
                text=True,
                timeout=DEADLINE_S,
                check=False,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise ControlError("kubectl: this program is not on the PATH; install it") from error
        except subprocess.TimeoutExpired as error:
            raise ControlError(
                f"kubectl {arguments[0]}: no answer within {DEADLINE_S:g} s; is the cluster that "
                "KUBECONFIG names up?"
            ) from error
        if done.returncode:
            raise ControlError(f"kubectl {arguments[0]}: {_last_line(done.stderr)}")
        return done.stdout

    def get(self, *arguments: str) -> dict[str, Any]:
        """Return objects as they are."""
        found: dict[str, Any] = json.loads(self.run("get", *arguments, "-o", "json"))
        return found

    @contextmanager
    def stream(self, *arguments: str, standard_input: str) -> Iterator[IO[bytes]]:
        """Run a command and yield what it prints, to be read while it runs.

        Raises
        ------
        SourceLost: reading takes too long, or the command failed.
        """
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write(standard_input.encode())
            given.seek(0)
            process = subprocess.Popen(
                self._command(arguments),
                stdin=given,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
            assert process.stdout
            try:
                yield BufferedReader(_Patient(process.stdout.fileno()))
            except SourceLost as error:
                process.kill()
                said.seek(0)
                words = said.read().decode(errors="replace").strip()
                raise SourceLost(
                    f"{error} ({_last_line(words)})" if words else str(error)
                ) from error
            finally:
                process.kill()
                process.stdout.close()
                process.wait()

    def _command(self, arguments: tuple[str, ...]) -> list[str]:
        return ["kubectl", "-n", self.namespace, *arguments]


class _Patient(RawIOBase):
    """What a program prints; not for ever does it wait for more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not select.select([self._descriptor], [], [], STALL_S)[0]:
            raise SourceLost(f"nothing came for {STALL_S:g} s")
        received = os.read(self._descriptor, len(buffer))
        buffer[: len(received)] = received
        return len(received)


def _last_line(text: str) -> str:
    return (text.strip().split("\n") or [""])[-1].removeprefix("Error from server ")
