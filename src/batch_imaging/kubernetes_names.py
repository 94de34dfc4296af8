"""Names that Kubernetes takes. The charts shorten in the same way, in their template helpers."""

import re
from hashlib import sha256

RELEASE_LIMIT = 53
"""The longest name of a release, which is also the beginning of the names of its objects."""


def kubernetes_name(text: str, limit: int = 63) -> str:
    """Return the text if it is such a name, else what is left of it with a mark of the whole."""
    name = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
    if name == text and len(name) <= limit:
        return name
    mark = sha256(text.encode()).hexdigest()[:8]
    return f"{name[: limit - 9].rstrip('-')}-{mark}".removeprefix("-")


def release_name(deploy_id: str) -> str:
    return kubernetes_name(deploy_id, RELEASE_LIMIT)


def engine_name(release: str) -> str:
    """Return what the names of an execution engine's objects begin with."""
    return release if "dask" in release else kubernetes_name(f"{release}-dask", RELEASE_LIMIT)
