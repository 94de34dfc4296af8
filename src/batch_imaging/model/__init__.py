"""What every other package speaks: visibilities, images, skies, gains, beams, stations."""
