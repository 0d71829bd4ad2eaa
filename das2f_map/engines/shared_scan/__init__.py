"""Full-scene inference that computes once all that neighbouring patches have in common."""

from das2f_map.engines.shared_scan.engine import SharedScanEngine, unavailable

__all__ = ["SharedScanEngine", "unavailable"]
