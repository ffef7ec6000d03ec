"""Reading of complete files into memory: plain, .gz, .xz or .zst, local or any URL that fsspec opens.

A file is decompressed completely before training, so that a truncated archive is detected early.
"""

import gzip
import lzma
import os
import zlib
from collections.abc import Callable

import fsspec
import zstandard

from finetune_scaling.errors import DataError


def read_bytes(path: str) -> bytes:
    """Return the decompressed content of a local path or URL; the suffix determines the compression.

    Raises DataError if the file is missing, unreadable or empty, or its archive is truncated or damaged.
    """
    data = _fetch(path)
    suffix = os.path.splitext(path)[1]
    if suffix in _DECOMPRESS:
        data = _decompress(path, data, _DECOMPRESS[suffix])
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
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path (relative ones start at {os.getcwd()})") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; give the path of one file") from None
    except (ImportError, ValueError) as error:  # unknown protocol, or its package is not installed
        raise DataError(f"{path}: cannot open this URL ({error}); install its fsspec package") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}); check its permissions and the connection") from error


def _decompress(path: str, data: bytes, decompress: Callable[[bytes], bytes]) -> bytes:
    try:
        return decompress(data)
    except (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise DataError(f"{path}: the archive is truncated or damaged ({error}); download the file again") from error


def _decompress_xz(data: bytes) -> bytes:
    # One stream at a time: the library's own reader silently ignores a further stream that is damaged.
    pieces = []
    while data:
        stream = lzma.LZMADecompressor()
        pieces.append(stream.decompress(data))
        if not stream.eof:
            raise EOFError("the last stream is truncated")
        data = stream.unused_data.lstrip(b"\0")  # streams may be padded
    return b"".join(pieces)


def _decompress_zstandard(data: bytes) -> bytes:
    # One frame at a time: the library's own readers silently ignore a truncated last frame.
    pieces = []
    while data:
        frame = zstandard.ZstdDecompressor().decompressobj()
        pieces.append(frame.decompress(data))
        if not frame.eof:
            raise EOFError("the last frame is truncated")
        data = frame.unused_data
    return b"".join(pieces)


_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".xz": _decompress_xz,
    ".zst": _decompress_zstandard,
}
