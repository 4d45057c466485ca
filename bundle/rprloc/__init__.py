"""One-shot localization of organs in 3D medical images by relative position regression."""

__version__ = "0.1.0"
