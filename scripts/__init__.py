"""Tools of developers: comparison with other methods, release, robustness, research. Not part of the package."""
