"""One image at a time for ITK."""

from __future__ import annotations

import threading

ITK_FILES = threading.Lock()
"""Held by whoever reads or writes a file through SimpleITK: two at once can crash the process, above all at its first
files (SimpleITK issue 74)."""
