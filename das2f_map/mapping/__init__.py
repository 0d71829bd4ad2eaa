"""A map: the request for it, its plan, and the run that writes it."""
