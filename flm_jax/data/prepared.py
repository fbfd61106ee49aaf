"""A folder of prepared faces: cut once, checked at every start against what they were cut from.

prepared.json                        the lists, pictures and uses, and the shards
faces-<build>-<number>.array_record  the faces of the lists, in order
"""

import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
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
from flm_jax.runtime.partial_folder import partial_folder, partial_name

INDEX = "prepared.json"
VERSION = 2  # of the windows and of the format

_FACES_PER_SHARD = 1024
_NAMED = 3  # pictures that a message names


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
    """Cuts the faces of whole lists into `folder`, or keeps a `folder` that holds just those.

    The folder appears whole or not at all, and takes the place of one that was cut from or for
    something else.

    Args:
        folder: of prepared faces.
        root: of the lists and pictures.
        lists: every record of each list, by the list's name relative to `root`.
        uses: what the faces are for.
        num_threads: that cut.
        at_unreadable: called with the list and the row of a face whose picture can't be read.
        stopped: whether to stop, asked after every face.

    Returns:
        Whether the folder is there: False where `stopped` was heard.

    Raises:
        InputError: `folder` holds something that is no prepared faces.
    """
    folder, root = Path(folder), Path(root)
    if _is_current(folder, root, lists, uses):
        return True
    with partial_folder(folder) as partial:
        index = _cut_into(partial, root, lists, uses, num_threads, at_unreadable, stopped)
        if index is None:
            return False
        (partial / INDEX).write_text(json.dumps(index) + "\n")
        # Another run may have put the same faces there meanwhile.
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
    """The lists, of faces that are read from `folder` and no more from the pictures.

    Args:
        folder: as `prepare` made it.
        root: of the lists and pictures.
        lists: every record of each list, by the list's name relative to `root`.
        uses: what the faces are wanted for.

    Raises:
        InputError: `folder` was not cut from these lists and pictures, or for other uses.
    """
    folder, root = Path(folder), Path(root)
    if not (folder / INDEX).is_file():
        raise InputError(
            f"data.prepared={folder}: holds no prepared faces. The same command with --mode "
            "prepare cuts them; --config.data.prepared= reads the pictures themselves"
        )
    index, differing = _compare(folder, root, lists, uses)
    if differing:
        rows = "".join(f"\n  {line}" for line in differing)
        raise InputError(
            f"data.prepared={folder}: not cut from this, or not for this (then -> now):{rows}\n"
            f"{FIX}; --config.data.prepared= reads the pictures themselves"
        )
    shards = [str(folder / Path(shard["file"]).name) for shard in index["shards"]]
    counter = itertools.count()
    return {
        name: [
            dataclasses.replace(record, shard=shards[shard], shard_row=place)
            for record in records
            for shard, place in [divmod(next(counter), _FACES_PER_SHARD)]
        ]
        for name, records in lists.items()
    }


def describe(folder: str | Path) -> str:
    """How many faces, and how large."""
    index = json.loads((Path(folder) / INDEX).read_text())
    size = sum(shard["bytes"] for shard in index["shards"])
    faces = sum(index["lists"][name]["faces"] for name in index["lists"])
    return f"{faces} faces, {size / 1e6:.1f} MB"


def _is_current(folder, root, lists, uses) -> bool:
    """Raises InputError where what is there is not to be replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not (folder / INDEX).is_file():
        raise InputError(
            f"data.prepared={folder}: holds something that is no prepared faces. Name a new or "
            "empty folder"
        )
    return not _compare(folder, root, lists, uses)[1]


def _compare(folder, root, lists, uses) -> tuple[dict[str, Any], list[str]]:
    """The index of `folder`, and in what it differs from what is there and wanted."""
    try:
        index = json.loads((folder / INDEX).read_text())
        return index, list(_differences(folder, root, lists, uses, index))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return {}, [f"{INDEX} can't be read: {type(error).__name__} {error}"]


def _differences(folder, root, lists, uses, index) -> Iterator[str]:
    if index["version"] != VERSION:
        yield f"version of the format: {index['version']} -> {VERSION}"
        return
    for name, value in _as_json(uses).items():
        if index["uses"][name] != value:
            yield f"{_USES[name]}: {index['uses'][name]} -> {value}"
    for name, records in lists.items():
        known, now = index["lists"].get(name), _describe_list(root, name, records)
        if known != now:
            yield f"{root / name}: {known} -> {now}"
    images = {record.image_name for records in lists.values() for record in records}
    changed = sorted(
        name
        for name in images & index["pictures"].keys()
        if not _is_same_picture(index["pictures"][name], root / IMAGES / name)
    )
    if changed:
        others = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        yield f"changed pictures: {', '.join(changed[:_NAMED])}{others}"
    num_shards = -(-sum(map(len, lists.values())) // _FACES_PER_SHARD)
    if len(index["shards"]) != num_shards:
        yield f"shards: {len(index['shards'])} -> {num_shards}"
    for shard in index["shards"]:
        path = folder / Path(shard["file"]).name
        size = path.stat().st_size if path.is_file() else None
        if size != shard["bytes"]:
            yield f"bytes of {path}: {shard['bytes']} -> {size}"


_USES = {
    "image_size": "data.image_size",
    "box": "data.box",
    "crop": "data.crop",
    "reach": "reach of data.augmentation",
    "zoom": "zoom of data.augmentation",
}


def _as_json(value) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(value)))


def _describe_list(root, name, records) -> dict[str, int]:
    return {"faces": len(records), "crc32": zlib.crc32((root / name).read_bytes())}


def _describe_picture(path) -> list[int | None]:
    """Size, time and checksum, of what is no picture by its size None."""
    state = path.stat()
    checksum = None
    if state.st_size <= MAX_FILE_SIZE:
        with contextlib.suppress(OSError):
            checksum = zlib.crc32(path.read_bytes())
    return [state.st_size, state.st_mtime_ns, checksum]


def _is_same_picture(known, path) -> bool:
    """By size and time; where only the time differs, as after a copy, by the content."""
    state = path.stat()
    if [state.st_size, state.st_mtime_ns] == known[:2]:
        return True
    return state.st_size == known[0] and _describe_picture(path)[2] == known[2]


def _cut_into(folder, root, lists, uses, num_threads, at_unreadable, stopped):
    """Fills the folder with shards; the index for them, or None where it was stopped."""
    from array_record.python import array_record_module

    faces = [(name, row, record) for name in lists for row, record in enumerate(lists[name])]
    pictures: dict[str, list[int | None]] = {}
    shards: list[dict[str, Any]] = []
    build = uuid.uuid4().hex[:8]
    start_reading()
    with (
        concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
        tqdm(total=len(faces), desc="cutting faces", unit="face", disable=None) as bar,
    ):
        for chunk in (
            faces[i : i + _FACES_PER_SHARD] for i in range(0, len(faces), _FACES_PER_SHARD)
        ):
            path = folder / f"faces-{build}-{len(shards):05d}.array_record"
            # The windows are compressed already, and read one at a time.
            writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1,uncompressed")
            jobs = [pool.submit(_cut, root, uses, record) for _, _, record in chunk]
            try:
                for (name, row, record), job in zip(chunk, jobs, strict=True):
                    pictures[record.image_name], content = job.result()
                    if content == UNREADABLE:
                        at_unreadable(name, row)
                    writer.write(content)
                    bar.update()
                    if stopped():
                        return None
            finally:
                writer.close()
                for job in jobs:
                    job.cancel()
            shards.append({"file": path.name, "bytes": path.stat().st_size})
    return {
        "version": VERSION,
        "uses": _as_json(uses),
        "lists": {name: _describe_list(root, name, of_list) for name, of_list in lists.items()},
        "pictures": pictures,
        "shards": shards,
    }


def _cut(root, uses, record):
    """Of a face: its picture's description, and its content."""
    picture = _describe_picture(root / IMAGES / record.image_name)
    try:
        return picture, encode_face(record, uses)
    except ImageError:
        return picture, UNREADABLE
