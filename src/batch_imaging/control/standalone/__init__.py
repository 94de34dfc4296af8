"""The whole control system on one machine."""
