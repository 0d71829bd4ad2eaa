"""The DAS²F network as torch modules."""
