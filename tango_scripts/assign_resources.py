"""Assign the resources of sbi.json, or of another configuration, to a subarray.

In a shell, or in iTango:
    python tango_scripts/assign_resources.py [DEVICE] [--config FILE]
    itango tango_scripts/assign_resources.py
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from session import SUBARRAY, command, connect, wait_for_obs_state

parser = argparse.ArgumentParser(description="Assign resources to a subarray.")
parser.add_argument("device", nargs="?", default=SUBARRAY)
parser.add_argument("--config", type=Path, default=Path(__file__).resolve().with_name("sbi.json"))
options = parser.parse_args()

try:
    config_sbi = options.config.read_text()
except (OSError, UnicodeDecodeError) as error:
    sys.exit(f"{options.config}: cannot be read: {error}")

d = connect(options.device)
if str(d.State()) == "OFF":
    command(d, "On")

command(d, "AssignResources", config_sbi)
wait_for_obs_state(d, "IDLE")
