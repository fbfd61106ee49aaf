"""Reads files that a stranger may have named or written: regular ones, in bounded memory."""

import codecs
import errno
import io
import os
import stat
from collections.abc import Generator

from flm_jax.errors import InputError

# Characters in a line. One of a main list has 207 fields: some 4,000 characters and a path.
MAX_LINE = 2**16

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def check_utf8(path: str, place: str) -> None:
    """Raises InputError for a path that is not UTF-8: OpenCV crashes where it opens such a file."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise InputError(f"{place}: OpenCV opens UTF-8 names alone; rename it") from None


def open_regular(path: str | os.PathLike) -> io.BufferedReader:
    """Opens a file for reading; OSError for a pipe or a device, which might never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # A pipe would wait for its writer.
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return open(descriptor, "rb")


def read_regular(path: str | os.PathLike) -> bytes:
    """The content of a file; OSError as `open_regular`."""
    with open_regular(path) as file:
        return file.read()


def open_text(path: str | os.PathLike) -> io.TextIOWrapper:
    """Opens a text, in UTF-8 or what its byte order mark says; what is neither becomes lone
    surrogates, or UnicodeError. Raises OSError as `open_regular`."""
    file = open_regular(path)
    encoding = "utf-16" if file.peek(2)[:2] in _UTF16 else "utf-8-sig"
    return io.TextIOWrapper(file, encoding, "surrogateescape", newline="\n")


def read_lines(path: str | os.PathLike) -> Generator[tuple[int, str]]:
    """The lines of a text and their numbers, from 1. Close it: it holds the file.

    Raises:
        OSError: it can't be read.
        InputError: a line is too long, or no text; names the place.
    """
    number = 0
    with open_text(path) as text:
        try:
            while line := text.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise InputError(f"{path}:{number}: a line of more than {MAX_LINE} characters")
                if not line.isascii():
                    line.encode()
                yield number, line
        except UnicodeError as error:
            reason = getattr(error, "reason", error)
            raise InputError(
                f"{path}:{max(1, number)}: not UTF-8 or UTF-16 text ({reason})"
            ) from None
