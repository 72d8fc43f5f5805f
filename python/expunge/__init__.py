"""Per-instance privacy and certified machine unlearning."""

__version__ = "0.1.0"
