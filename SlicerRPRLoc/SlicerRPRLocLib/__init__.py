"""The RPR-Loc module for 3D Slicer: everything but its entry point. Only ``widget.py`` needs Slicer's desktop."""
