"""What the scripts of an operator's session share: a subarray to talk to, and waiting for it."""

import os
import sys
import time
from typing import Any

import tango

SUBARRAY = "mid_sdp/elt/subarray_1"


def connect(name: str) -> tango.DeviceProxy:
    """Return the proxy of a device; end with what to do if it cannot be reached."""
    host = os.environ.get("TANGO_HOST")
    if not host:
        sys.exit("TANGO_HOST is not set; `batch-imaging up` prints it, as in 127.0.0.1:10000")
    try:
        device = tango.DeviceProxy(name)
        device.ping()
    except tango.DevFailed as error:
        sys.exit(f"{name} at TANGO_HOST={host} cannot be reached: {reason(error)}")
    return device


def command(device: tango.DeviceProxy, name: str, *arguments: Any) -> None:
    """Give a command; end with the device's own words if it refuses."""
    try:
        device.command_inout(name, *arguments)
    except tango.DevFailed as error:
        sys.exit(f"{name} was refused: {reason(error)}")


def wait_for_obs_state(device: tango.DeviceProxy, wanted: str, deadline_s: float = 60.0) -> None:
    """Wait until obsState is ``wanted``; end with what it is if that takes too long."""
    deadline = time.monotonic() + deadline_s
    while (now := device.obsState.name) != wanted:
        if now == "FAULT" or time.monotonic() > deadline:
            sys.exit(
                f"{device.name()}: obsState is {now}, not {wanted}, in {deadline_s:g} s; "
                "`batch-imaging config list` shows the processing blocks"
            )
        time.sleep(0.1)
    print(f"{device.name()} is {device.State()} and {now}")


def reason(error: tango.DevFailed) -> str:
    """Return the first reason of a failure, in words."""
    return error.args[0].desc.strip()
