"""Show the attributes of a subarray whenever they change, until Ctrl-C.

In a shell, or in iTango:
    python tango_scripts/watch.py [DEVICE] [--seconds SECONDS]
    itango tango_scripts/watch.py
"""

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tango
from session import SUBARRAY, connect, reason

ATTRIBUTES = (
    *("State", "obsState", "adminMode", "healthState"),
    *("receiveAddresses", "scanType", "scanID"),
)


def show(event: tango.EventData) -> None:
    """Print one change."""
    now = time.strftime("%H:%M:%S")
    if event.err:
        print(f"{now}  {event.errors[0].desc.strip()}", flush=True)
        return
    name, value = event.attr_value.name, event.attr_value.value
    names = d.get_attribute_config(name).enum_labels
    print(f"{now}  {name} = {names[value] if len(names) > 1 else value}", flush=True)


parser = argparse.ArgumentParser(description="Watch a subarray.")
parser.add_argument("device", nargs="?", default=SUBARRAY)
parser.add_argument("--seconds", type=float, default=float("inf"), help="end after this time")
options = parser.parse_args()

d = connect(options.device)
end = time.monotonic() + options.seconds
try:
    for name in ATTRIBUTES:
        d.subscribe_event(name, tango.EventType.CHANGE_EVENT, show)
    while (left_s := end - time.monotonic()) > 0:
        time.sleep(min(left_s, 1.0))
except KeyboardInterrupt:
    pass
except tango.DevFailed as error:
    sys.exit(f"{options.device} cannot be watched: {reason(error)}")
