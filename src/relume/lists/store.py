"""Files on object stores, by fsspec, and a cache of them that stays below a size.

The cache is a folder of generations, numbered folders of files. What is fetched goes into the
newest, and what is found in an older one is copied there; when the newest is full a new one
begins, and the oldest goes. So what was not used for the longest time goes first, without a
clock or a list that could be damaged; several runs may share the folder, and a killed one leaves
nothing that has to be put in order. Every file ends with a digest of its name and bytes.

An object is asked for its version (size, time, ETag: whatever the store says of it) when a
process first uses it, and its version is a part of its name here: a changed object is another.
"""

import errno
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from relume.checkpoint import storage
from relume.errors import DataFileError, StorageError
from relume.formats.places import is_url, open_regular, read_regular, remote_path

GENERATIONS = 8
LOOKS = 16
"""How often, while one generation fills, its true size is looked at: others may fill it too."""
MOST_VERSIONS = 1 << 17
DIGEST_BYTES = 32
CHUNK_BYTES = 1 << 22


class Store:
    """Reads objects by their URL, and keeps them."""

    def __init__(self, folder: Path, limit_bytes: int, say: Callable[[str], None]) -> None:
        """Use a cache folder, which need not exist.

        Args:
            folder: of the cache.
            limit_bytes: of all objects in it; one run more that fills it may exceed that by
                1 / (GENERATIONS * LOOKS).
            say: takes a line if nothing can be kept.
        """
        self._folder = folder
        self._part_bytes = limit_bytes // GENERATIONS
        self._say = say
        self._versions: dict[str, str] = {}
        self._lock = threading.Lock()
        self._newest, self._size_bytes, self._added_bytes = 0, 0, 0
        self._has_said = False

    def read(self, url: str) -> bytes:
        """Return the bytes of an object, from the cache if they are there.

        Raises:
            DataFileError: there is no way to this kind of store here.
            OSError: as a disk would: FileNotFoundError, PermissionError, or another.
        """
        version = self._versions.get(url) or self._ask_version(url)
        key = _key(url, version)
        data = self._kept(key)
        if data is None:
            data = _of_store(url, lambda system, path: bytes(system.cat_file(path)))
            if self._ask_version(url) != version:
                raise OSError(errno.EIO, "it was changed while it was read")
            self._keep(key, data)
        return data

    def copy_of_list(self, url: str) -> Path:
        """Return a local file with the lines of a list, which may be too long for the memory.

        Raises:
            DataFileError, OSError: as read.
            StorageError: the cache folder cannot be written.
        """
        key = _key(url, self._ask_version(url))
        for generation in reversed(self._generations()):
            path, said = (self._path(generation, f"{key}.{what}") for what in ("txt", "digest"))
            with suppress(OSError):
                if read_regular(said, DIGEST_BYTES) == _digest_of_file(path):
                    return path
        with self._lock:
            newest = self._room_for(0)
        path, said = (self._path(newest, f"{key}.{what}") for what in ("txt", "digest"))
        hasher = xxhash.xxh3_128()

        def chunks() -> Iterator[bytes]:
            with _of_store(url, lambda system, path: system.open(path, "rb")) as file:
                while chunk := _as_os_error(lambda: file.read(CHUNK_BYTES)):
                    hasher.update(chunk)
                    yield chunk

        storage.write_replaceable(path, chunks())
        storage.write_replaceable(said, (hasher.hexdigest().encode(),))
        with self._lock:
            self._size_bytes += path.stat().st_size
        return path

    def _ask_version(self, url: str) -> str:
        version: str = _of_store(url, lambda system, path: _told(system.info(path)))
        if len(self._versions) >= MOST_VERSIONS:
            self._versions.clear()
        self._versions[url] = version
        return version

    def _kept(self, key: str) -> bytes | None:
        """Return what the cache holds; None if it is not there or damaged."""
        generations = self._generations()
        for generation in reversed(generations):
            path = self._path(generation, key)
            try:
                held = read_regular(path, sys.maxsize)
            except OSError:
                continue
            data = held[:-DIGEST_BYTES]
            if _sealed(key, data) != held[-DIGEST_BYTES:]:
                with suppress(StorageError):
                    storage.remove(path)
                continue
            if generation != generations[-1]:
                self._keep(key, data)
            return data
        return None

    def _keep(self, key: str, data: bytes) -> None:
        """Put an object into the newest generation, unless it is too large for one."""
        size_bytes = len(data) + DIGEST_BYTES
        if size_bytes > self._part_bytes:
            return
        try:
            with self._lock:
                newest = self._room_for(size_bytes)
            path = self._path(newest, key)
            storage.write_replaceable(path, (data, _sealed(key, data)))
        except StorageError as error:
            if not self._has_said:
                self._has_said = True
                self._say(f"what is fetched is not kept: {error}")

    def _room_for(self, size_bytes: int) -> int:
        """Return the generation that an object goes into; begin one and drop the oldest if due."""
        newest = max([1, *self._generations()])
        if newest != self._newest or self._added_bytes > self._part_bytes // LOOKS:
            self._newest, self._added_bytes = newest, 0
            self._size_bytes = _folder_bytes(self._folder / f"{newest:08}")
        if self._size_bytes + size_bytes > self._part_bytes:
            newest += 1
            self._newest, self._size_bytes, self._added_bytes = newest, 0, 0
        storage.make_folder(self._folder / f"{newest:08}")
        for generation in self._generations():
            if generation <= newest - GENERATIONS:
                with suppress(StorageError):  # another run drops it at the same time
                    storage.remove_folder(self._folder / f"{generation:08}")
        self._size_bytes += size_bytes
        self._added_bytes += size_bytes
        return newest

    def _generations(self) -> list[int]:
        """Return the numbers of the generations, in order."""
        try:
            names = [path.name for path in self._folder.iterdir()]
        except OSError:
            return []
        return sorted(int(name) for name in names if name.isdigit())

    def _path(self, generation: int, key: str) -> Path:
        return self._folder / f"{generation:08}" / key


def _of_store(url: str, function: Callable[[Any, str], Any]) -> Any:
    """Call a function with a file system of fsspec and a path in it; its errors are OSErrors.

    Raises:
        DataFileError: fsspec, or what it needs for this kind of store, is not installed.
        OSError: whatever else went wrong.
    """
    try:
        system, path = importlib.import_module("fsspec.core").url_to_fs(url)
    except (ImportError, ValueError) as error:
        remedy = "pip install fsspec, and s3fs, gcsfs or what the URL needs"
        raise DataFileError(url, f"cannot be reached ({error})", "", remedy) from error
    return _as_os_error(lambda: function(system, path))


def _as_os_error(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except FileNotFoundError as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
    except PermissionError as error:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES)) from error
    except MemoryError:
        raise
    except Exception as error:  # libraries for stores have errors of their own
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}") from error


def _told(info: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={info[name]}" for name in sorted(info))


def _key(url: str, version: str) -> str:
    return xxhash.xxh3_128_hexdigest(f"{url}\n{version}".encode("utf-8", "surrogateescape"))


def _sealed(key: str, data: bytes) -> bytes:
    hasher = xxhash.xxh3_128(key.encode())
    hasher.update(data)
    return hasher.hexdigest().encode()


def _digest_of_file(path: Path) -> bytes:
    hasher = xxhash.xxh3_128()
    with open_regular(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            hasher.update(chunk)
    return hasher.hexdigest().encode()


def _folder_bytes(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except OSError:
        return 0


def entries_on(store: Store, list_url: str | None = None) -> Callable[[str], Path | None]:
    """Return what finds the file on an object store that an entry of a list means.

    Entries are URLs, or relative to the place of a list that is on a store itself.

    Args:
        store: that reads them.
        list_url: of the list, if it is on a store.
    """
    base = list_url.rpartition("/")[0] if list_url else ""

    def remote(entry: str) -> Path | None:
        if is_url(entry):
            return remote_path(entry, store.read)
        if base and not entry.startswith("/"):
            return remote_path(f"{base}/{entry}".replace("\\", "/"), store.read)
        return None

    return remote
