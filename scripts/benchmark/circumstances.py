"""What a time in the report depends on: the clock and the machine."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import torch


def read_clock() -> float:
    """Seconds for timing methods: with one thread processor time, so that waiting for other work does not count.

    That is about the wall time on a machine with nothing else to do. With more threads it is the wall time.
    """
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def describe_machine(device: torch.device | str = "cpu") -> str:
    """In words: the GPU, or the processor and the number of threads in use."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = [line for line in information.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' if threads > 1 else ''}, no GPU"
