"""``python -m das2f_map``, where the ``das2f-map`` script is not on the path."""

from __future__ import annotations

from das2f_map.cli.app import main

if __name__ == "__main__":
    main()
