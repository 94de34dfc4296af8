"""How paths and values of the configuration database are written in etcd.

A key is its path with the number of slashes in it put in front: `/pb/a/state` is stored as
`3/pb/a/state`, so that a query for the prefix `2/pb/` finds the processing blocks and nothing below
them. A value is JSON with sorted keys and an indent of two.
"""

import json
import re
from typing import Any

from batch_imaging.errors import InvalidPath, MalformedRecord

TAGGED = re.compile(r"(\d+)(/.*)", re.DOTALL)


def to_key(path: str) -> str:
    """Return the key of a path, or the prefix of the keys right under a path that ends in '/'.

    Raises
    ------
    InvalidPath: the path does not start with a slash.
    """
    if not path.startswith("/"):
        raise InvalidPath(f"{path}: a path starts with '/'")
    return f"{path.count('/')}{path}"


def to_path(key: str) -> str | None:
    """Return the path of a key; None for a key that is not one of ours."""
    match = TAGGED.fullmatch(key)
    if match is None or match[2].endswith("/") or int(match[1]) != match[2].count("/"):
        return None
    return match[2]


def check_path(path: str) -> str:
    """Return the path of an entry.

    Raises
    ------
    InvalidPath: it does not start with a slash, or ends with one.
    """
    if not path.startswith("/") or path.endswith("/"):
        raise InvalidPath(f"{path}: the path of an entry starts with '/' and does not end with one")
    return path


def to_value(entry: dict[str, Any]) -> bytes:
    """Return the bytes that stand for an object.

    Raises
    ------
    ValueError: it holds what JSON cannot: infinity, not a number, or half a surrogate.
    """
    text = json.dumps(
        entry,
        allow_nan=False,
        ensure_ascii=False,
        indent=2,
        separators=(",", ": "),
        sort_keys=True,
    )
    return text.encode()


def to_object(path: str, value: bytes) -> dict[str, Any]:
    """Return the object of an entry.

    Raises
    ------
    MalformedRecord: it is not a JSON object.
    """
    try:
        entry = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise MalformedRecord(path, f"is not JSON ({error})") from error
    if not isinstance(entry, dict):
        raise MalformedRecord(
            path, f"is not a JSON object but {value[:40].decode(errors='replace')}"
        )
    return entry
