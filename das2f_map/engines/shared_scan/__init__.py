"""Full-scene inference that shares between neighbouring patches whatever they have in common."""

from das2f_map.engines.shared_scan.engine import SharedScanEngine, unavailable

__all__ = ["SharedScanEngine", "unavailable"]
