"""The program and other methods on the same pairs of scans: ``python -m scripts.benchmark.run DATASETS.json``."""
