"""Release the resources of a subarray: real-time processing ends, batch processing starts.

In a shell, or in iTango:
    python tango_scripts/release_resources.py [DEVICE]
    itango tango_scripts/release_resources.py
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from session import SUBARRAY, command, connect, wait_for_obs_state

parser = argparse.ArgumentParser(description="Release the resources of a subarray.")
parser.add_argument("device", nargs="?", default=SUBARRAY)
options = parser.parse_args()

d = connect(options.device)
command(d, "ReleaseResources")
wait_for_obs_state(d, "EMPTY")
