"""Copying products from a source into a folder: whole and compared, or not at all."""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

from batch_imaging.control.config.quantity import quantity_text
from batch_imaging.errors import ControlError, DataError, ProductError, ResourceError

TRIES = 3
RETRY_S = 1.0
CHUNK_BYTES = 2**20
PARTIAL = ".partial"

Told = Callable[[str, int, int], None]
"""Called with what is being done, and how many bytes of how many are."""


class SourceLost(ControlError):
    """The source does not answer any more; what was received so far is whole or incomplete."""


class Source(Protocol):
    """Something that runs `remote` on the files to be copied."""

    def ask(self, command: str, argument: Any) -> AbstractContextManager[IO[bytes]]:
        """Return what `remote` writes; reading it raises SourceLost when the source is lost."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the source, and the product that it belongs to: itself, or a table."""

    path: str
    size_bytes: int
    sha256: str
    product: str

    def below(self, product: Path) -> Path:
        """Return its path where the product has that path."""
        return product / PurePosixPath(self.path).relative_to(self.product)

    def is_at(self, path: Path) -> bool:
        """Whether a file with the same content is there."""
        return (
            path.is_file()
            and path.stat().st_size == self.size_bytes
            and _sha256(path) == self.sha256
        )


@dataclass(slots=True)
class Listing:
    """The files of a source by product, what cannot be copied and why, and all names on top."""

    products: dict[str, list[File]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Fetched:
    """What a copy has done.

    Attributes
    ----------
    products: that are there now, copied or equal before.
    refused: paths that were not copied, and why.
    """

    products: list[Path]
    refused: dict[str, str]
    n_copied: int
    copied_bytes: int


def fetch(source: Source, destination: Path, patterns: Sequence[str], told: Told) -> Fetched:
    """Copy all products that match into a folder; what is there and equal stays.

    Raises
    ------
    DataError: nothing matches, or a name leads out of the folder.
    ResourceError: there is no room for it.
    ProductError: the folder cannot be written to, or a product could not be copied whole.
    ControlError: the source was lost.
    """
    listing = _list_again(source, patterns or ("*",), told)
    if not listing.products:
        raise DataError(_nothing(listing, patterns))
    try:
        destination.mkdir(parents=True, exist_ok=True)
        copy = _Copy(source, destination.resolve(), told)
        return copy.fetch(listing)
    except OSError as error:
        raise ProductError(
            f"{error.filename or destination}: cannot be written ({error.strerror}); "
            "choose another destination"
        ) from error


def _list_again(source: Source, patterns: Sequence[str], told: Told) -> Listing:
    for number in range(1, TRIES):
        try:
            return _list(source, patterns, told)
        except SourceLost:
            time.sleep(RETRY_S * number)
    return _list(source, patterns, told)


def _list(source: Source, patterns: Sequence[str], told: Told) -> Listing:
    listing, n_found, total_bytes, seen_bytes = Listing(), 0, 0, 0
    with source.ask("list", list(patterns)) as stream:
        while line := stream.readline():
            each = json.loads(line) if line.endswith(b"\n") else {}
            match each:
                case {"bytes": total_bytes, "names": names}:
                    listing.names = names
                case {"path": path, "refused": reason}:
                    listing.refused[path] = reason
                    n_found += 1
                case {"path": path, "size": size, "sha256": sha256, "product": product}:
                    file = File(path, size, sha256, product)
                    listing.products.setdefault(product, []).append(file)
                    n_found += 1
                    seen_bytes += size
                case {"end": n_expected} if n_expected == n_found:
                    return listing
            told("comparing", seen_bytes + each.get("read", 0), total_bytes)
        raise SourceLost("the list of files was cut short")


def _nothing(listing: Listing, patterns: Sequence[str]) -> str:
    if not listing.names:
        return "the buffer is empty"
    names = ", ".join(listing.names[:10]) + (", …" if len(listing.names) > 10 else "")
    return f"nothing to copy matches {' or '.join(patterns) or '*'}; on top there are {names}"


class _Copy:
    def __init__(self, source: Source, destination: Path, told: Told) -> None:
        self._source = source
        self._destination = destination
        self._told = told

    def fetch(self, listing: Listing) -> Fetched:
        for files in listing.products.values():
            self._check(files)
        wanted = {
            product: files
            for product, files in listing.products.items()
            if not all(each.is_at(self._destination / each.path) for each in files)
        }
        total_bytes = sum(each.size_bytes for files in wanted.values() for each in files)
        self._check_room(total_bytes)
        for product in wanted:
            _remove(self._partial(product))
        try:
            self._copy(wanted, total_bytes)
        finally:
            for product in wanted:
                _remove(self._partial(product))
        return Fetched(
            [self._destination / product for product in listing.products],
            listing.refused,
            len(wanted),
            total_bytes,
        )

    def _partial(self, product: str) -> Path:
        return self._destination / f"{product}{PARTIAL}"

    def _check(self, files: list[File]) -> None:
        """Refuse names that lead out of the destination, also through links that are there."""
        for file in files:
            path = PurePosixPath(file.path)
            is_below = path.is_relative_to(file.product) and not path.is_absolute()
            parent = (self._destination / path).parent.resolve()
            if (
                not is_below
                or ".." in path.parts
                or not parent.is_relative_to(self._destination)
                or not file.path
            ):
                raise DataError(f"{file.path!r}: this path leads out of {self._destination}")

    def _check_room(self, n_bytes: int) -> None:
        free_bytes = shutil.disk_usage(self._destination).free
        if n_bytes > free_bytes:
            raise ResourceError(
                f"{self._destination}: {quantity_text(n_bytes)} are to be copied and "
                f"{quantity_text(free_bytes)} are free; make room, or choose less with --include"
            )

    def _copy(self, wanted: dict[str, list[File]], total_bytes: int) -> None:
        """Ask for what is missing until nothing is; files that arrive whole are not asked again."""
        missing = dict.fromkeys(file for files in wanted.values() for file in files)
        left = Counter(file.product for file in missing)
        reason = ""
        for number in range(1, TRIES + 1):
            try:
                for file in self._received(list(missing), total_bytes):
                    del missing[file]
                    left[file.product] -= 1
                    if not left[file.product]:
                        self._complete(file.product)
                reason = "they do not agree with their checksums; is somebody writing them?"
            except SourceLost as error:
                reason = str(error)
            if not missing:
                return
            if number < TRIES:
                time.sleep(RETRY_S * number)
        first = ", ".join(sorted({each.product for each in missing})[:5])
        raise ProductError(
            f"{len(missing)} files could not be copied in {TRIES} tries, of {first}: {reason}"
        )

    def _received(self, files: list[File], total_bytes: int) -> Iterator[File]:
        """Yield the files that have arrived whole, next to where they belong."""
        done_bytes = total_bytes - sum(each.size_bytes for each in files)
        with self._source.ask("send", [[each.path, each.size_bytes] for each in files]) as stream:
            for file in files:
                path = file.below(self._partial(file.product))
                path.parent.mkdir(parents=True, exist_ok=True)
                digest = hashlib.sha256()
                left_bytes = file.size_bytes
                with path.open("wb") as output:
                    while left_bytes:
                        chunk = stream.read(min(CHUNK_BYTES, left_bytes))
                        if not chunk:
                            raise SourceLost(f"{file.path}: the stream was cut short")
                        output.write(chunk)
                        digest.update(chunk)
                        left_bytes -= len(chunk)
                        done_bytes += len(chunk)
                        self._told("copying", done_bytes, total_bytes)
                if digest.hexdigest() == file.sha256:
                    yield file

    def _complete(self, product: str) -> None:
        """Put a product in its place; a table that is there goes as a whole."""
        target = self._destination / product
        if target.is_dir():
            _remove(target)
        self._partial(product).replace(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
