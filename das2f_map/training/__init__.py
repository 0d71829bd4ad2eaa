"""Labels and an image pair in, a model bundle out; and how far a class map agrees with reference data."""
