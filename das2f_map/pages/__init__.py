"""Self-contained HTML pages for people: the report of a map, the page of a model."""
