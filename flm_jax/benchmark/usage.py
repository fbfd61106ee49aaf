"""What this process has taken so far: time since its start, and memory. Without JAX."""

import os
import resource
import sys
import time
from pathlib import Path

_IMPORTED = time.time()


def seconds_since_start() -> float:
    """Since this process began (`os.execv` keeps it); without /proc, since this import."""
    try:
        # Field 22 of proc(5)'s stat, counted after the program's name, which may hold spaces.
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return time.time() - _IMPORTED
    return uptime - ticks / os.sysconf("SC_CLK_TCK")


def peak_bytes() -> int:
    """The most memory that this process has held."""
    try:
        # On Linux, rusage would start with what the process's parent has held.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
