"""The DAS²F network as torch modules."""

from das2f_map.network.config import NetworkConfig
from das2f_map.network.das2f import Das2fNet

__all__ = ["Das2fNet", "NetworkConfig"]
