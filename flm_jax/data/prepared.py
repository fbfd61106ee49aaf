"""A folder of prepared faces: cut once, and checked at every start against what it was cut from.

prepared.json                        the lists, images and uses, and the shards
faces-<build>-<number>.array_record  the faces of the lists, in order
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from flm_jax.data.images import MAX_FILE_SIZE, ImageError
from flm_jax.data.prepared_face import FIX, UNREADABLE, Uses, encode_face
from flm_jax.data.wflw import IMAGES, Record
from flm_jax.data.workers import start_reading
from flm_jax.errors import InputError
from flm_jax.runtime.partial_folder import landing, partial_folder, partial_name

INDEX = "prepared.json"
VERSION = 2  # of the index, the windows and the records

_FACES_PER_SHARD = 1024
_OWN = re.compile(rf"{re.escape(INDEX)}|faces-[0-9a-f]{{8}}-\d{{5,}}\.array_record")
_MAX_NAMED = 3  # images that a message names
_KEYS = {"reach": "augmentation (reach)", "zoom": "augmentation (zoom)"}  # other than their names


def prepare(
    folder: str | Path,
    root: str | Path,
    lists: Mapping[str, Sequence[Record]],
    uses: Uses,
    *,
    num_threads: int,
    at_unreadable: Callable[[str, int], object],
    stopped: Callable[[], object],
) -> bool:
    """Cuts the faces of whole lists into `folder`, unless it already holds exactly those.

    The folder appears whole or not at all. It replaces faces that were cut from other data or for
    other uses.

    Args:
        folder: of the prepared faces.
        root: of the lists and images.
        lists: every record of each list, by the list's name relative to `root`.
        uses: what the faces are for.
        num_threads: that cut.
        at_unreadable: called with the list and the row of a face whose image cannot be read.
        stopped: asked after every face whether to stop.

    Returns:
        Whether the folder is complete; False after a stop.

    Raises:
        InputError: `folder` holds something other than prepared faces, or can't be replaced.
    """
    folder, root = Path(folder), Path(root)
    if _is_current(folder, root, lists, uses):
        return True
    folder = landing(folder)
    with partial_folder(folder) as partial:
        index = _cut_into(partial, root, lists, uses, num_threads, at_unreadable, stopped)
        if index is None:
            return False
        (partial / INDEX).write_text(json.dumps(index) + "\n")
        # Another run may have prepared the same faces meanwhile.
        if not _is_current(folder, root, lists, uses):
            if folder.exists():
                old = partial_name(folder)
                folder.rename(old)
                partial.rename(folder)
                shutil.rmtree(old)
            else:
                partial.rename(folder)
    return True


def attach(
    folder: str | Path, root: str | Path, lists: Mapping[str, Sequence[Record]], uses: Uses
) -> dict[str, list[Record]]:
    """The lists with records that are read from `folder` instead of their images.

    Args:
        folder: as written by `prepare`.
        root: of the lists and images.
        lists: every record of each list, by the list's name relative to `root`.
        uses: what the faces are wanted for.

    Raises:
        InputError: `folder` was cut from other lists or images or for other uses, or is damaged.
    """
    folder, root = Path(folder), Path(root)
    if not (folder / INDEX).is_file():
        raise InputError(
            f"data.prepared={folder}: holds no prepared faces. Run the same command with --mode "
            "prepare to cut them; --config.data.prepared= reads the images instead"
        )
    index, differing = _compare(folder, root, lists, uses)
    if differing:
        rows = "".join(f"\n  {line}" for line in differing)
        raise InputError(
            f"data.prepared={folder}: was cut from other data or for other uses (then -> now):"
            f"{rows}\n{FIX}; --config.data.prepared= reads the images instead"
        )
    shards = [str(folder / Path(shard["file"]).name) for shard in index["shards"]]
    counter = itertools.count()
    return {
        name: [
            dataclasses.replace(record, shard=shards[shard], shard_row=row)
            for record in records
            for shard, row in [divmod(next(counter), _FACES_PER_SHARD)]
        ]
        for name, records in lists.items()
    }


def describe(folder: str | Path) -> str:
    """The number of faces in a prepared folder and their size."""
    index = json.loads((Path(folder) / INDEX).read_text())
    size = sum(shard["bytes"] for shard in index["shards"])
    faces = sum(index["lists"][name]["faces"] for name in index["lists"])
    return f"{faces} faces, {size / 1e6:.1f} MB"


def _is_current(folder, root, lists, uses) -> bool:
    """Whether the folder may stay; raises InputError if it may not be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / INDEX).is_file():
        raise InputError(
            f"data.prepared={folder}: holds something other than prepared faces. Name a new or "
            "empty folder"
        )
    if not _compare(folder, root, lists, uses)[1]:
        return True
    if others := sorted(path.name for path in folder.iterdir() if not _OWN.fullmatch(path.name)):
        raise InputError(
            f"data.prepared={folder}: holds {others[0]!a} beside faces that have to be cut anew. "
            "Move it away, or name another folder"
        )
    return False


def _compare(folder, root, lists, uses) -> tuple[dict[str, Any], list[str]]:
    """The folder's index, and how it differs from what is there and wanted now."""
    try:
        index = json.loads((folder / INDEX).read_text())
        return index, list(_differences(folder, root, lists, uses, index))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return {}, [f"{INDEX} can't be read: {type(error).__name__} {error}"]


def _differences(folder, root, lists, uses, index) -> Iterator[str]:
    if index["version"] != VERSION:
        yield f"version of the format: {index['version']} -> {VERSION}"
        return
    then = {"exif_upright": False, **index["uses"]}  # The first version did not write it.
    for name, value in _as_json(uses).items():
        if then[name] != value:
            yield f"data.{_KEYS.get(name, name)}: {then[name]} -> {value}"
    for name, records in lists.items():
        known, now = index["lists"].get(name), _describe_list(root, name, records)
        if known != now:
            yield f"{root / name}: {known} -> {now}"
    images = {record.image_name for records in lists.values() for record in records}
    changed = sorted(
        name
        for name in images & index["pictures"].keys()
        if not _is_same_image(index["pictures"][name], root / IMAGES / name)
    )
    if changed:
        others = f" and {len(changed) - _MAX_NAMED} more" if len(changed) > _MAX_NAMED else ""
        yield f"changed images: {', '.join(changed[:_MAX_NAMED])}{others}"
    num_shards = -(-sum(map(len, lists.values())) // _FACES_PER_SHARD)
    if len(index["shards"]) != num_shards:
        yield f"shards: {len(index['shards'])} -> {num_shards}"
    for shard in index["shards"]:
        path = folder / Path(shard["file"]).name
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            yield f"bytes of {path}: {shard['bytes']} -> {size}"


def _as_json(uses) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(uses)))


def _describe_list(root, name, records) -> dict[str, int]:
    return {"faces": len(records), "crc32": zlib.crc32((root / name).read_bytes())}


def _describe_image(path) -> list[int | None]:
    """Size, modification time and checksum; no checksum if the file is too large or unreadable."""
    status = path.stat()
    checksum = None
    if status.st_size <= MAX_FILE_SIZE:
        with contextlib.suppress(OSError):
            checksum = zlib.crc32(path.read_bytes())
    return [status.st_size, status.st_mtime_ns, checksum]


def _is_same_image(known, path) -> bool:
    """Compares size and time; if only the time differs, as after a copy, the content."""
    status = path.stat()
    if [status.st_size, status.st_mtime_ns] == known[:2]:
        return True
    return status.st_size == known[0] and _describe_image(path)[2] == known[2]


@contextlib.contextmanager
def _shard_writer(path: Path) -> Iterator[Any]:
    """An ArrayRecord's writer, whose errors are OSErrors."""
    from array_record.python import array_record_module

    try:
        # The faces are compressed already, and read one at a time.
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
        try:
            yield writer
        finally:
            writer.close()
    except RuntimeError as error:
        if str(path) not in str(error):
            raise
        raise OSError(str(error).split(";")[0]) from error


def _cut_into(folder, root, lists, uses, num_threads, at_unreadable, stopped):
    """Fills the folder with shards. Returns their index, or None after a stop."""
    faces = [(name, row, record) for name in lists for row, record in enumerate(lists[name])]
    images: dict[str, list[int | None]] = {}
    shards: list[dict[str, Any]] = []
    build = uuid.uuid4().hex[:8]
    start_reading()
    with (
        concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
        tqdm(total=len(faces), desc="cutting faces", unit="face", disable=None) as bar,
    ):
        for start in range(0, len(faces), _FACES_PER_SHARD):
            chunk = faces[start : start + _FACES_PER_SHARD]
            path = folder / f"faces-{build}-{len(shards):05d}.array_record"
            jobs = [pool.submit(_cut, root, uses, record) for _, _, record in chunk]
            try:
                with _shard_writer(path) as writer:
                    for (name, row, record), job in zip(chunk, jobs, strict=True):
                        images[record.image_name], content = job.result()
                        if content == UNREADABLE:
                            at_unreadable(name, row)
                        writer.write(content)
                        bar.update()
                        if stopped():
                            return None
            finally:
                for job in jobs:
                    job.cancel()
            shards.append({"file": path.name, "bytes": path.stat().st_size})
    return {
        "version": VERSION,
        "uses": _as_json(uses),
        "lists": {name: _describe_list(root, name, records) for name, records in lists.items()},
        "pictures": images,
        "shards": shards,
    }


def _cut(root, uses, record):
    """The description of a face's image, and the face's shard record."""
    image = _describe_image(root / IMAGES / record.image_name)
    try:
        return image, encode_face(record, uses)
    except ImageError:
        return image, UNREADABLE
