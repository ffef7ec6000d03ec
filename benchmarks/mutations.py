"""Random damage to files and values, as disks, editors, scripts and people make it. Each mutation says what it did."""

import json
import os
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

Mutation: TypeAlias = Callable[[random.Random, Path], str]

TEXTS = (
    *("", " ", "\t", "nan", "inf", "-inf", "-1", "0", "1.0", "00", "1e400", "1e-400", "1e308", "9" * 400, "1,5", "1_0"),
    *(
        "0x10",
        "٣",
        "None",
        "null",
        "true",
        "~",
        "/",
        "..",
        "../x",
        "a" * 5000,
        "$x$",
        "\\",
        "{x}",
        "<b>&",
        "%s",
        "=1+1",
    ),
    *("[]", "{}", "'", '"', "\x00", "\x1b[2J", "\u2028", "\u202e", "e\u0301", "🙂", "ein Wort", "a,b", "a\nb", "2**70"),
)
NUMBERS = (0, -1, 1, 2, 3.5, -0.0, 1e-300, 1e308, 2**31, 2**63, -(2**63) - 1, 10**30)
DEPTH = 3000  # of nested lists, more than Python's recursion limit

_NAN, _INFINITY, _DEEP, _LONG = "\u0001nan", "\u0001inf", "\u0001deep", "\u0001long"  # replaced after encoding


def mutate(rng: random.Random, path: Path) -> str:
    """Damage a file in one random way, or its place in the file system; return what was done."""
    kinds: list[Mutation] = [_change_bytes, _change_bytes]
    if rng.random() < 0.1 or path.stat().st_size == 0:
        kinds = [_change_place]
    elif path.suffix == ".json":
        kinds += [_change_json] * 8
    elif path.suffix == ".jsonl":
        kinds += [_change_json_line] * 5 + [_change_lines] * 2
    elif path.suffix in (".csv", ".tsv"):
        kinds += [_change_cell] * 5 + [_change_lines] * 2
    elif path.suffix == ".txt":
        kinds += [_change_lines] * 5
    elif path.suffix == ".safetensors":
        kinds += [_change_safetensors] * 6
    return f"{path.name}: {rng.choice(kinds)(rng, path)}"


def odd_value(rng: random.Random) -> Any:
    """Return a JSON value that few fields expect."""
    kind = rng.randrange(6)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice(TEXTS)
    if kind == 2:
        return rng.choice((_NAN, _INFINITY, _DEEP, _LONG))
    return rng.choice((None, True, False, [], {}, [None], {"": 0}, [[1, 2], [3]], ["a", 1], {"a": {"b": None}}))


def encode(value: Any) -> str:
    """Return JSON, in which values of `odd_value` that JSON cannot hold are written as other programs write them."""
    text = json.dumps(value)
    deep, long = "[" * DEPTH + "]" * DEPTH, "7" * 5000
    for mark, written in ((_NAN, "NaN"), (_INFINITY, "Infinity"), (_DEEP, deep), (_LONG, long)):
        text = text.replace(json.dumps(mark), written)
    return text


def _change_place(rng: random.Random, path: Path) -> str:
    kind = rng.choice(["missing", "empty", "directory", "dangling link", "link to itself", "copied twice"])
    data = path.read_bytes()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "copied twice":
        path.write_bytes(data + data)
    else:
        path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(path.with_name("nothing"))
    elif kind == "link to itself":
        path.symlink_to(path)
    return kind


def _change_bytes(rng: random.Random, path: Path) -> str:
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 1, 4, 16, 200)))
    kind = rng.choice(["flip", "overwrite", "delete", "repeat", "truncate", "insert", "prefix", "append", "line ends"])
    inserted = rng.choice(
        (b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xc3", b"\r", b"\n\n", b"\x85", b'"', b"\x1a")
    )
    if kind == "flip":
        data[start] ^= 1 << rng.randrange(8)
    elif kind == "overwrite":
        data[start:end] = rng.randbytes(end - start)
    elif kind == "delete":
        del data[start:end]
    elif kind == "repeat":
        data[start:start] = data[start:end] * rng.choice((1, 1, 50))
    elif kind == "truncate":
        del data[start:]
    elif kind == "line ends":
        data = bytearray(bytes(data).replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n"))))
    else:
        place = {"insert": start, "prefix": 0, "append": len(data)}[kind]
        data[place:place] = inserted
    path.write_bytes(data)
    return f"{kind} at {start}"


def _change_lines(rng: random.Random, path: Path) -> str:
    lines = path.read_bytes().split(b"\n")
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.choice(
        ["blank", "spaces", "delete", "repeat", "swap", "header again", "odd", "very long", "only the first"]
    )
    if kind in ("blank", "spaces"):
        lines.insert(i, b"" if kind == "blank" else b"  \t ")
    elif kind == "delete":
        del lines[i]
    elif kind == "repeat":
        lines.insert(j, lines[i])
    elif kind == "swap":
        lines[i], lines[j] = lines[j], lines[i]
    elif kind == "header again":
        lines.insert(i, lines[0])
    elif kind == "odd":
        lines[i] = rng.choice(TEXTS).encode()
    elif kind == "very long":
        lines[i] = lines[i] * 20000
    else:
        lines = lines[:1]
    path.write_bytes(b"\n".join(lines))
    return f"line {i + 1}: {kind}"


def _change_cell(rng: random.Random, path: Path) -> str:
    separator = b"\t" if path.suffix == ".tsv" else b","
    lines = path.read_bytes().split(b"\n")
    i = rng.randrange(min(len(lines), rng.choice((1, 5, len(lines)))))
    cells = lines[i].split(separator)
    j = rng.randrange(len(cells))
    kind = rng.choice(["odd", "odd", "odd", "delete", "repeat", "swap", "every row"])
    odd = rng.choice(TEXTS).encode()
    if kind == "delete":
        del cells[j]
    elif kind == "repeat":
        cells.insert(j, cells[j])
    elif kind == "swap":
        k = rng.randrange(len(cells))
        cells[j], cells[k] = cells[k], cells[j]
    else:
        cells[j] = odd
    lines[i] = separator.join(cells)
    if kind == "every row":
        for k in range(1, len(lines)):
            row = lines[k].split(separator)
            if j < len(row):
                lines[k] = separator.join([*row[:j], odd, *row[j + 1 :]])
    path.write_bytes(b"\n".join(lines))
    return f"line {i + 1}, cell {j + 1}: {kind} {odd[:20]!r}"


def _change_json(rng: random.Random, path: Path) -> str:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):  # an earlier mutation damaged it
        return _change_bytes(rng, path)
    value, done = change_value(rng, value)
    path.write_text(value, encoding="utf-8", errors="surrogatepass")
    return done


def _change_json_line(rng: random.Random, path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    i = rng.randrange(len(lines))
    try:
        value = json.loads(lines[i])
    except (ValueError, RecursionError):
        return _change_lines(rng, path)
    lines[i], done = change_value(rng, value)
    path.write_text("\n".join(lines), encoding="utf-8", errors="surrogatepass")
    return f"line {i + 1}: {done}"


def change_value(rng: random.Random, value: Any) -> tuple[str, str]:
    """Return JSON of a value with one random change, and what was changed."""
    slots = list(_slots(value))
    if not slots:
        return encode(odd_value(rng)), "another value"
    # Fields that are near the root are chosen as often as the many of long lists below it.
    container, key, where = rng.choice(rng.choice(_by_depth(slots)))
    kind = rng.choice(["odd", "odd", "odd", "delete", "rename", "double", "twice"])
    if kind == "odd":
        container[key] = odd_value(rng)
    elif kind == "delete":
        del container[key]
    elif kind == "double" and isinstance(container[key], int | float):
        container[key] = container[key] * 2
    elif kind == "rename" and isinstance(container, dict):
        container[rng.choice(("", "x", f"{key}2", f"{key}.a", "__class__"))] = container.pop(key)
    elif kind == "twice" and isinstance(container, dict):
        mark = "\u0002twice"
        container[mark] = odd_value(rng)
        return encode(value).replace(json.dumps(mark), json.dumps(key)), f"{where}: twice"
    else:
        container[key] = [container[key]]
    return encode(value), f"{where}: {kind}"


def _slots(value: Any, where: str = "") -> Iterator[tuple[Any, Any, str]]:
    """Yield (container, key, name) of every value inside a JSON value."""
    if isinstance(value, dict):
        items: Iterator[tuple[Any, Any]] = iter(list(value.items()))
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return
    for key, inner in items:
        name = f"{where}.{key}"
        yield value, key, name
        yield from _slots(inner, name)


def _by_depth(slots: list[tuple[Any, Any, str]]) -> list[list[tuple[Any, Any, str]]]:
    levels: dict[int, list[tuple[Any, Any, str]]] = {}
    for slot in slots:
        levels.setdefault(slot[2].count("."), []).append(slot)
    return list(levels.values())


def _change_safetensors(rng: random.Random, path: Path) -> str:
    data = path.read_bytes()
    if len(data) < 8:
        return _change_bytes(rng, path)
    (length,) = struct.unpack("<Q", data[:8])
    kind = rng.choice(["length", "header", "header", "header", "data shorter", "data longer", "values"])
    if kind == "length":
        wrong = rng.choice((0, 1, length - 1, length + 1, 2 * length, len(data), 2**32, 2**63, 2**64 - 1))
        data = struct.pack("<Q", wrong) + data[8:]
    elif kind == "header":
        try:
            header, done = change_value(rng, json.loads(data[8 : 8 + length]))
        except (ValueError, RecursionError):
            return _change_bytes(rng, path)
        encoded = header.encode("utf-8", errors="surrogatepass")
        data = struct.pack("<Q", len(encoded)) + encoded + data[8 + length :]
        kind = f"header {done}"
    elif kind == "values":
        data = data[: 8 + length] + rng.choice((b"\xff", b"\x7f", b"\0")) * (len(data) - 8 - length)
    else:
        data = data[: -rng.randrange(1, 100)] if kind == "data shorter" else data + b"\0" * rng.randrange(1, 100)
    path.write_bytes(data)
    return kind


def copy(seed: Path, destination: Path) -> None:
    """Copy a file or directory."""
    if seed.is_dir():
        shutil.copytree(seed, destination, symlinks=True)
    else:
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(seed, destination)
    os.utime(destination)
