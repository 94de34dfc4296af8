"""Benchmarks: what is measured stands beside the goal and, where there is one, a peer's figure.

Nothing is asserted: a table says by how much a goal is met or missed on the machine at hand.
"""

import os

# Kernels are measured on one core, so BLAS must learn of it before numpy is imported.
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
os.environ.setdefault(BLAS_THREADS, "1")
