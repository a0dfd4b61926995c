"""The version of AI Mass; the distribution's metadata says the same (a test compares them)."""

__version__ = "0.1.0"
