"""Reading of complete files into memory: plain, .gz, .xz or .zst, local or any URL that fsspec opens.

A file is decompressed completely before training, so that a truncated archive is detected early.
"""

import gzip
import lzma
import os
import zlib
from collections.abc import Callable
from typing import Any

import fsspec
import zstandard

from finetune_scaling.errors import DataError


def read_bytes(path: str) -> bytes:
    """Return the decompressed content of a local path or URL; the suffix determines the compression.

    Raises DataError if the file is missing, unreadable or empty, or its archive is truncated or damaged.
    """
    data = _fetch(path)
    decompress = _DECOMPRESS.get(os.path.splitext(path)[1], bytes)
    try:
        data = decompress(data)
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise DataError(f"{path}: the archive is truncated or damaged ({error}); download the file again") from error
    if not data.strip():
        raise DataError(f"{path} is empty; download or write the file again")
    return data


def without_compression_suffix(path: str) -> str:
    """Return text.jsonl for text.jsonl.xz."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix in _DECOMPRESS else path


def _fetch(path: str) -> bytes:
    try:
        with fsspec.open(os.path.expanduser(path), "rb") as file:
            return file.read()
    except (OSError, ImportError, ValueError) as error:  # ValueError: a protocol that fsspec does not know
        raise DataError(
            f"{path} cannot be read ({type(error).__name__}: {error}); give the path of one file (relative ones start "
            f"at {os.getcwd()}), or a URL whose fsspec package is installed"
        ) from error


def _decompress_streams(data: bytes, decompressor: Callable[[], Any]) -> bytes:
    """Decompress one stream at a time: the libraries' own readers silently ignore a damaged or truncated last one."""
    pieces = []
    while data:
        stream = decompressor()
        pieces.append(stream.decompress(data))
        if not stream.eof:
            raise EOFError("the last stream is truncated")
        data = stream.unused_data.lstrip(b"\0")  # streams may be padded
    return b"".join(pieces)


_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".xz": lambda data: _decompress_streams(data, lzma.LZMADecompressor),
    ".zst": lambda data: _decompress_streams(data, zstandard.ZstdDecompressor().decompressobj),
}
