"""From an open pair and a model to a finished map."""
