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

from finetune_scaling.errors import DataError, MissingDataError
from finetune_scaling.paths import user_path
from finetune_scaling.text_lines import BYTE_ORDER_MARK

_OTHER_FORMATS = {  # first bytes -> fix
    b"\x1f\x8b": "it is compressed; add .gz to its name",
    b"\xfd7zXZ\x00": "it is compressed; add .xz to its name",
    b"\x28\xb5\x2f\xfd": "it is compressed; add .zst to its name",
    b"PK\x03\x04": "it is a zip archive; unpack it",
    b"PAR1": "it is a Parquet file; convert it to JSONL",
}


def read_bytes(path: str) -> bytes:
    """Return the decompressed content of a local path or URL; the suffix determines the compression.

    A byte order mark at the beginning is dropped. Raises DataError if the file is missing, unreadable, empty or in a
    known format that is not text, or its archive is truncated or damaged.
    """
    data = _fetch(path)
    decompress = _DECOMPRESS.get(os.path.splitext(path)[1], bytes)
    try:
        data = decompress(data)
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise DataError(f"{path}: the archive is truncated or damaged ({error}); download the file again") from error
    data = data.removeprefix(BYTE_ORDER_MARK.encode())
    if not data.strip():
        raise DataError(f"{path} is empty; download or write the file again")
    if fix := next((fix for magic, fix in _OTHER_FORMATS.items() if data.startswith(magic)), None):
        raise DataError(f"{path} is not a text file in UTF-8: {fix}")
    return data


def without_compression_suffix(path: str) -> str:
    """Return text.jsonl for text.jsonl.xz."""
    stem, suffix = os.path.splitext(path)
    return stem if suffix in _DECOMPRESS else path


def _fetch(path: str) -> bytes:
    try:
        with fsspec.open(user_path(path), "rb") as file:
            return file.read()
    except (OSError, ImportError, ValueError) as error:  # ValueError: a protocol that fsspec does not know
        raise MissingDataError(
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
