"""Time and memory as the problem grows, and what the plan had said of them."""

from batch_imaging.execution.plan import Plan, make_plan
from batch_imaging.parameters import load_parameters
from benchmarks.command_line_run import EXAMPLE, WORKERS, CommandLineRun, run_example
from benchmarks.table import Cell, Table

CELL = "imaging.cellsize=0.0004"  # fine enough for the longest baselines of all cases
CASES = (
    "nfreqwin=2",
    "nfreqwin=8",
    "nfreqwin=32",
    "rmax=300",
    "rmax=1500",
    "ntimes=20",
)
QUICK_CASES = ("nfreqwin=2", "nfreqwin=4")
QUICK_PIXELS = "imaging.npixel=512"
COLUMNS = (
    "case",
    "Mvis",
    "simulate, s",
    "ICAL, s",
    "spectral, s",
    "other, s",
    "all, s",
    "stages, s/Mvis",
    "planned, s",
    "worker, MB",
    "planned, MB",
    "all, MB",
    "planned, MB ",
)


def benchmark_growth(quick: bool) -> list[Table]:
    """Measure runs of the seed case with more and fewer windows, stations and times."""
    common = [CELL, *([QUICK_PIXELS] if quick else [])]
    rows = tuple(_row(case, [*common, case]) for case in (QUICK_CASES if quick else CASES))
    note = (
        "The seed case (8 windows, rmax 750 m, 5 times) with one parameter changed, and cells of "
        "0.4 mrad instead of 0.5 in all rows, which the longest baselines need. Workers by "
        "their resident memory, all processes by PSS, which counts shared pages once."
    )
    return [Table("Growth", COLUMNS, rows, note)]


def _row(case: str, settings: list[str]) -> tuple[Cell, ...]:
    plan = make_plan(load_parameters(EXAMPLE, settings), n_workers=WORKERS)
    run = run_example(settings)
    return (case, *_times(run, plan), *_memory(run, plan))


def _times(run: CommandLineRun, plan: Plan) -> tuple[Cell, ...]:
    stages_s = [run.stage_s(name) for name in ("simulation", "ical", "spectral")]
    mvis = 1e-6 * plan.visibilities
    other_s = run.wall_s - sum(stages_s)
    return mvis, *stages_s, other_s, run.wall_s, sum(stages_s) / mvis, plan.wall_s


def _memory(run: CommandLineRun, plan: Plan) -> tuple[Cell, ...]:
    found = (run.worker_bytes, plan.worker_bytes, run.peak_bytes, plan.memory_bytes)
    return tuple(round(1e-6 * value) for value in found)
