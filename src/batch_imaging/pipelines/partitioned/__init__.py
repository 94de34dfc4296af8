"""Continuum imaging as independent jobs that share no more than files."""
