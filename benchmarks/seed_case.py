"""The seed case, examples/batch_imaging.json with two workers, through the command line.

RASCIL's figures: version 0.1.5 on the same case and the same kind of machine, its gridder replaced
by ducc0 at the same accuracy; it made no spectral cube and no report.
"""

from collections.abc import Sequence

from benchmarks.command_line_run import CommandLineRun, run_example
from benchmarks.table import Measurement, Table, tabulate

GIB = 2**30


def benchmark_seed_case(quick: bool) -> list[Table]:
    """Measure speed, memory and quality; with thermal noise too unless ``quick``."""
    run = run_example()
    tables = [
        tabulate("Seed case", _figures(run), "RASCIL", "ICAL: all of its stages, on two workers."),
        _stages(run),
    ]
    if not quick:
        tables.append(_with_noise())
    return tables


def _figures(run: CommandLineRun) -> list[Measurement]:
    summary = run.summary
    window = summary["windows"][summary["chosen_window"]]
    phase_rad, shifted_rad = summary["phase_error_rad"], summary["phase_error_with_shift_rad"]
    return [
        Measurement("whole run", run.wall_s, "s", 30, 170),
        Measurement("ICAL", run.stage_s("ical"), "s", 12, 116),
        Measurement("peak memory, all processes", run.peak_bytes / GIB, "GiB", 2.0, 3.6),
        Measurement("station phase error", phase_rad, "rad rms", 2e-3),
        Measurement("… with the shift of the sky", shifted_rad, "rad rms", peer=1.03e-2),
        Measurement("dynamic range", window["dynamic_range"], "", 3e4, 6240, at_least=True),
        _flux_error([source["ratio"] for source in summary["sources"]]),
    ]


def _flux_error(ratios: Sequence[float | None]) -> Measurement:
    """Measure the worst flux density; no figure is better than one without those not found."""
    found = [ratio for ratio in ratios if ratio is not None]
    missing = len(ratios) - len(found)
    what = f"worst of the {len(ratios)} brightest fluxes"
    if missing or not found:
        return Measurement(f"{what}, {missing} not found", None, "%", 1.0)
    return Measurement(what, 100 * max(abs(ratio - 1) for ratio in found), "%", 1.0)


def _stages(run: CommandLineRun) -> Table:
    stages = run.summary["stages"]
    rows = [(s["name"], s["units"], float(s["wall_s"])) for s in stages]
    rest_s = run.wall_s - sum(seconds for _, _, seconds in rows)
    rows.append(("start, report, end", 1, rest_s))
    return Table("Stages of the seed case", ("stage", "units", "s"), tuple(rows))


def _with_noise() -> Table:
    run = run_example(["simulation.noise=1"])
    columns = ("window, MHz", "residual rms, mJy", "theory, mJy", "ratio")
    rows = tuple(
        (
            f"{w['freq_hz'] / 1e6:.2f}",
            1e3 * w["rms_jy_per_beam"],
            1e3 * w["thermal_noise_jy_per_beam"],
            w["rms_jy_per_beam"] / w["thermal_noise_jy_per_beam"],
        )
        for w in run.summary["windows"]
    )
    note = "Thermal noise of 1 Jy in each visibility; goal: a ratio between 0.85 and 1.15."
    return Table("Seed case with noise", columns, rows, note)
