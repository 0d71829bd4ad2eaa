"""The version, where every layer can import it without importing the package's public names."""

__version__ = "0.1.0"
