"""Spectral cubes of any size, a chunk at a time, on spectral-cube's Dask classes."""
