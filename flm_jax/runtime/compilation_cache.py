"""Compiled programs on disk, so that a restart need not compile again."""

import contextlib
import re
import zlib
from pathlib import Path

import jax

_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_ENTRY = re.compile(r".+-[0-9a-f]{64}-cache")  # a program's name and hash


def enable(folder: Path) -> None:
    """Keeps every compiled program in `folder`, from the next compilation on.

    JAX writes entries in place and never overwrites one: an entry that a killed process left
    half-written would warn and be compiled again at every start. So such entries are removed.

    Entries are machine code: whoever can write to the folder decides what runs.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for entry in folder.iterdir():
        if not _ENTRY.fullmatch(entry.name):
            continue
        # Another process may have removed it just now.
        with contextlib.suppress(FileNotFoundError):
            if not _is_whole(entry.read_bytes()):
                entry.unlink(missing_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_max_size", -1)


def _is_whole(content: bytes) -> bool:
    """Whether an entry decompresses to its end."""
    try:
        if content.startswith(_ZSTANDARD):
            import zstandard  # JAX uses it where it is installed.

            zstandard.ZstdDecompressor().decompress(content)
        else:
            zlib.decompress(content)
    except Exception:  # Each library has its own.
        return False
    return True
