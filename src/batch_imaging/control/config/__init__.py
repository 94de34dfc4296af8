"""The configuration database: what the parts of the control system know of each other.

Its keys, JSON and transactions are those of the SDP prototype's configuration library, so that
components of both may work on one database.
"""

from batch_imaging.control.config.client import Config, ConnectionSettings
from batch_imaging.control.config.memory_backend import MemoryBackend
from batch_imaging.control.config.transaction import Transaction
from batch_imaging.control.config.view import Follower, View

__all__ = ["Config", "ConnectionSettings", "Follower", "MemoryBackend", "Transaction", "View"]
