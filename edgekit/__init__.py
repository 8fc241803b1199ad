"""edgekit: from a PyTorch model and a device profile to a verified edge bundle."""

__version__ = "0.1.0"

__all__ = ["__version__"]
