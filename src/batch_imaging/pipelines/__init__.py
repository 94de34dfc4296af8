"""Simulate, self-calibrate, image: stages, each a function mapped over units of work."""
