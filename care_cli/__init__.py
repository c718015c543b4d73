"""CARE: from a camera trap's SD card to named animals, over one SQLite catalog."""

__version__ = "0.1.0"
