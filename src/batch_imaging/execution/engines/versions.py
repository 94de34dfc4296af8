"""The same versions everywhere: what one pickles, another must read, and compute the same from."""

from typing import Any

from distributed import Client

from batch_imaging.errors import VersionMismatch

PACKAGES = ("batch_imaging", "cloudpickle", "dask", "distributed", "ducc0", "msgpack", "numpy")


def require_same_versions(client: Client) -> None:
    """Compare Python and libraries of the scheduler and all workers with those of this process.

    A scheduler need not have them all.

    Raises
    ------
    VersionMismatch: with a table of what differs where.
    """
    found: Any = client.get_versions(packages=list(PACKAGES))
    here = _versions(found["client"])
    there = {"scheduler": _versions(found["scheduler"])}
    there |= {address: _versions(each) for address, each in found["workers"].items()}
    rows = [
        (where, name, version or "missing", here[name] or "missing")
        for where, versions in there.items()
        for name, version in versions.items()
        if version != here[name] and (version is not None or where != "scheduler")
    ]
    if rows:
        table = [("where", "what", "there", "here"), *rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(map(str.ljust, row, widths)).rstrip()  # one line a difference
            for row in table
        ]
        raise VersionMismatch(
            "scheduler and workers must run the same versions as this process; give them the same "
            "environment (or container image)\n" + "\n".join(lines)
        )


def _versions(found: dict[str, dict[str, str | None]]) -> dict[str, str | None]:
    """Return versions by name; of Python what matters, 3.11 of 3.11.7.final.0."""
    python = ".".join(str(found["host"]["python"]).split(".")[:2])
    return {"python": python} | {name: found["packages"].get(name) for name in PACKAGES}
