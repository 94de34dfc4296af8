"""`python -m benchmarks`: measure, print tables, write them to files."""

import argparse
import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from batch_imaging import __version__
from batch_imaging.execution.engines.local import available_cores
from batch_imaging.report.provenance import host_class
from benchmarks.control import benchmark_control
from benchmarks.cubes import benchmark_cubes
from benchmarks.engines import benchmark_engines
from benchmarks.growth import benchmark_growth
from benchmarks.kernels import benchmark_kernels
from benchmarks.kubernetes import benchmark_kubernetes
from benchmarks.scaling import benchmark_scaling
from benchmarks.seed_case import benchmark_seed_case
from benchmarks.spectral import benchmark_spectral
from benchmarks.subtraction import benchmark_subtraction
from benchmarks.table import Table, markdown_page

BENCHMARKS: dict[str, Callable[[bool], list[Table]]] = {
    "kernels": benchmark_kernels,
    "seed_case": benchmark_seed_case,
    "growth": benchmark_growth,
    "control": benchmark_control,
    "engines": benchmark_engines,
    "kubernetes": benchmark_kubernetes,
    "cubes": benchmark_cubes,
    "subtraction": benchmark_subtraction,
    "spectral": benchmark_spectral,
    "scaling": benchmark_scaling,
}
LIBRARIES = ("numpy", "ducc0", "radler", "dask", "python-casacore")


def main() -> None:
    """Run the benchmarks that were asked for."""
    options = _parse()
    tables: list[Table] = []
    for name in options.only or BENCHMARKS:
        for table in BENCHMARKS[name](options.quick):
            print(f"{table}\n", flush=True)
            tables.append(table)
    machine = describe_machine()
    if options.json:
        document = {"machine": machine, "tables": [table.to_record() for table in tables]}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    if options.markdown:
        options.markdown.write_text(_page(machine, tables))


def describe_machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    host = host_class()
    return {
        "cpu": host["cpu_model"] or host["machine"],
        "cores": available_cores(),
        "python": platform.python_version(),
        "batch_imaging": __version__,
        **{name: version(name) for name in LIBRARIES},
    }


def _page(machine: dict[str, Any], tables: list[Table]) -> str:
    introduction = [
        "Written by `python -m benchmarks --markdown docs/performance.md`; do not edit.",
        "",
        "“Better ×” is how many times better a figure is than the goal or peer to its left;",
        "below 1 it is worse. Measured on "
        + ", ".join(f"{name} {value}" for name, value in machine.items())
        + ".",
    ]
    return markdown_page("Performance", introduction, tables)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument(
        "--only", action="append", choices=BENCHMARKS, help="one benchmark; may be repeated"
    )
    parser.add_argument("--quick", action="store_true", help="smaller and fewer: about a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all tables as JSON")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write all as a page")
    return parser.parse_args()


if __name__ == "__main__":
    main()
