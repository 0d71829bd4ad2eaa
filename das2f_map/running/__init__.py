"""How the blocks of a plan are computed."""
