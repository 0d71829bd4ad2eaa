"""An image pair on its common grid, read block by block."""
