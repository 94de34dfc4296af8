"""Fingerprints of files, and of folders such as Measurement Sets."""

import hashlib
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 4 * 2**20
THREADS = 2  # hashing leaves the interpreter lock


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Size and checksums; of a folder, the size of its files and checksums over names and files."""

    size_bytes: int
    sha256: str
    crc32: str


def take_fingerprint(path: Path) -> Fingerprint:
    """Read a file, or the files of a folder in the order of their names.

    A folder's checksums run over each file's relative path, a zero byte, its size as decimal
    digits, a zero byte, and its content.
    """
    sha256, crc32, size_bytes = hashlib.sha256(), 0, 0
    members = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for member in members:
        if path.is_dir():
            name = member.relative_to(path).as_posix()
            frame = f"{name}\0{member.stat().st_size}\0".encode()
            sha256.update(frame)
            crc32 = zlib.crc32(frame, crc32)
        with member.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                sha256.update(chunk)
                crc32 = zlib.crc32(chunk, crc32)
                size_bytes += len(chunk)
    return Fingerprint(size_bytes, sha256.hexdigest(), f"{crc32:08x}")


def take_fingerprints(paths: Sequence[Path]) -> dict[Path, Fingerprint]:
    """Fingerprint what exists of ``paths``."""
    present = [path for path in paths if path.exists()]
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(present, pool.map(take_fingerprint, present), strict=True))
