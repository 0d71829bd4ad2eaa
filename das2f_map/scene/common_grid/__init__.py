"""One grid for both images of a pair, and the one resampling that leads to it."""
