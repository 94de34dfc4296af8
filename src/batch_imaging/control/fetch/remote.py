"""What runs in the pod, with nothing but Python: list files with their checksums, and send them.

It is sent there as text, so that the versions here and in the pod need not be the same. The list
comes as lines of JSON: first how much there is, then each file, and what cannot be sent. Files come
as their bare bytes, one after the other, as many of each as were asked for.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

CHUNK_BYTES = 2**20
TELL_BYTES = 2**28
"""How much of a file is read between two signs of life."""
TABLE = "table.dat"
"""The file that makes a folder a table, as a Measurement Set is one."""


def find(root: str, patterns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield all files of products whose path, or that of a folder above, matches a pattern.

    A product is a file, or a table with all its files. Names in `.partial` are not complete yet.
    """
    yield from _walk(root, "", None, patterns)


def _walk(
    root: str, folder: str, table: str | None, patterns: list[str]
) -> Iterator[dict[str, Any]]:
    try:
        entries = sorted(os.scandir(os.path.join(root, folder)), key=lambda each: each.name)
    except OSError as error:
        yield {"path": folder, "refused": f"cannot be read ({error.strerror})"}
        return
    for entry in entries:
        path = os.path.join(folder, entry.name)
        if entry.name.endswith(".partial") or path == "lost+found":
            continue
        is_wanted = any(fnmatchcase(path, pattern) for pattern in patterns)
        below = ["*"] if is_wanted else patterns
        if entry.is_dir(follow_symlinks=False):
            if table or not os.path.exists(os.path.join(entry.path, TABLE)):
                yield from _walk(root, path, table, below)
            elif is_wanted:
                yield from _walk(root, path, path, below)
        elif is_wanted and entry.is_file(follow_symlinks=False):
            yield {"path": path, "size": entry.stat().st_size, "product": table or path}
        elif is_wanted:
            yield {"path": path, "refused": "is a link or a special file"}


def write_list(root: str, patterns: list[str]) -> None:
    """Write how much there is, and then each file with its SHA-256."""
    found = list(find(root, patterns))
    total_bytes = sum(each.get("size", 0) for each in found)
    _tell({"bytes": total_bytes, "names": sorted(os.listdir(root))})
    for each in found:
        if "size" in each:
            each["sha256"] = _sha256(os.path.join(root, each["path"]))
        _tell(each)
    _tell({"end": len(found)})


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            if file.tell() % TELL_BYTES == 0:
                _tell({"read": file.tell()})
    return digest.hexdigest()


def _tell(line: dict[str, Any]) -> None:
    sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


def send(root: str, wanted: list[list[Any]]) -> None:
    """Write files, each given by its path and the bytes of it that are expected."""
    for path, size_bytes in wanted:
        with open(os.path.join(root, path), "rb") as file:
            left_bytes = size_bytes
            while left_bytes:
                chunk = file.read(min(CHUNK_BYTES, left_bytes))
                if not chunk:
                    raise SystemExit(f"{path}: has become shorter")
                sys.stdout.buffer.write(chunk)
                left_bytes -= len(chunk)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    command = write_list if sys.argv[1] == "list" else send
    command(sys.argv[2], json.load(sys.stdin))
