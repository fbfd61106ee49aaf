"""Standard output and error that a run outlives."""

import contextlib
import io
import os
import sys


class _Lossy(io.FileIO):
    """A file whose writes never fail: what can't be written is lost."""

    def write(self, data):
        written = None
        with contextlib.suppress(OSError):
            written = super().write(data)
        return memoryview(data).nbytes if written is None else written


def outlive_log() -> None:
    """Makes failing writes to standard output and error harmless.

    Whoever reads them may go away (`| head`, an interrupted `| tee`), and the disk below them may
    be full: neither may stop a training, nor change its exit code.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        try:
            file = _Lossy(stream.fileno(), "w", closefd=False)
        except (AttributeError, OSError, ValueError):  # It is closed, or no file.
            file = _Lossy(os.devnull, "w")
        text = io.TextIOWrapper(
            io.BufferedWriter(file),
            encoding=getattr(stream, "encoding", None),
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, text)


def write_error(text: str) -> None:
    """Writes to standard error at once, from any thread."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
