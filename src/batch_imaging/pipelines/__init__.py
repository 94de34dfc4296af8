"""Simulate, self-calibrate, image: sequences of stages, each a function mapped over units of work."""
