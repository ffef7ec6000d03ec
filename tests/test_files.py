"""Atomic writes survive kills and full disks; errors name the path and the fix."""

import errno
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from finetune_scaling.errors import WorkdirError
from finetune_scaling.files import (
    check_writable,
    disk_errors,
    new_directory,
    read_json,
    sha256,
    write_atomically,
    write_json_atomically,
)


def test_written_values_are_read_back_and_no_other_file_is_left(tmp_path):
    path = tmp_path / "deep" / "down" / "value.json"
    for value in ({"text": "größe 大"}, [1, None, 2.5]):
        write_json_atomically(path, value)
        assert read_json(path) == value
    assert [entry.name for entry in path.parent.iterdir()] == ["value.json"]
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"


def test_a_path_that_cannot_be_written_is_known_without_writing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("text")
    for writable in (tmp_path, tmp_path / "new" / "deep" / "file", tmp_path / "file"):
        check_writable(writable, "give another")
    with pytest.raises(WorkdirError, match=r"file/below: cannot be written; give another"):
        check_writable(tmp_path / "file" / "below", "give another")
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)  # root may write everywhere
    with pytest.raises(WorkdirError, match=r"new/file: cannot be written; give another"):
        check_writable(tmp_path / "new" / "file", "give another")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_non_ascii_text_is_not_escaped(tmp_path):
    write_json_atomically(tmp_path / "value.json", {"text": "größe 大"})
    assert "größe 大" in (tmp_path / "value.json").read_text(encoding="utf-8")


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_the_target_of_a_link_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real" / "file")
    for text in ("first", "second"):
        write_atomically(tmp_path / "link", text)
        assert (tmp_path / "real" / "file").read_text() == text
    assert (tmp_path / "link").is_symlink()
    assert [entry.name for entry in (tmp_path / "real").iterdir()] == ["file"]


def test_a_circular_link_is_replaced(tmp_path):
    (tmp_path / "link").symlink_to("link")
    write_atomically(tmp_path / "link", "text")
    assert (tmp_path / "link").read_text() == "text"


def test_pipes_and_devices_are_written_to_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_atomically(pipe, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert pipe.is_fifo()
    (tmp_path / "null").symlink_to(os.devnull)
    write_atomically(tmp_path / "null", "text")
    assert (tmp_path / "null").is_char_device()


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), WorkdirError, "the disk is full; free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), WorkdirError, "the disk is full; free some space"),
        (OSError(errno.EROFS, "Read-only file system"), WorkdirError, r"cannot be written \(Read-only file system\)"),
        (OSError(errno.EIO, "Input/output error"), OSError, "Input/output error"),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, function, failure, kind, message):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(kind, match=message) as error:
        write_atomically(path, "new")
    if kind is WorkdirError:
        assert str(path) in str(error.value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys
from finetune_scaling.files import write_json_atomically
while True:
    for number in range(10):
        write_json_atomically(sys.argv[1], [number] * 50_000)
"""


def test_a_file_is_complete_whenever_its_writer_is_killed(tmp_path):
    path = tmp_path / "value.json"
    wait = random.Random(0)
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(wait.uniform(0.05, 0.3))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        value = json.loads(path.read_text())
        assert len(value) == 50_000
        assert len(set(value)) == 1


@pytest.mark.parametrize("content", [b'{"a": 1,\n "b": }', b"", b'{"a": 1', b'{"a": "\xff"}'])
def test_invalid_json_is_an_error_with_the_path_and_a_fix(tmp_path, content):
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(WorkdirError, match=r"value\.json: not (valid JSON|UTF-8) \(.*\); restore an intact copy"):
        read_json(path)


def test_a_byte_order_mark_at_the_start_is_dropped(tmp_path):
    (tmp_path / "value.json").write_text("\ufeff[1]", encoding="utf-8")
    assert read_json(tmp_path / "value.json") == [1]


@pytest.mark.parametrize("read", [read_json, sha256])
def test_a_file_that_may_not_be_read_is_an_error_with_the_path(tmp_path, monkeypatch, read):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read everything
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(WorkdirError, match=r"value\.json: cannot be read \(Permission denied\)"):
        read(tmp_path / "value.json")


def test_the_line_of_invalid_json_is_named(tmp_path):
    (tmp_path / "value.json").write_text('{"a": 1,\n "b": }')
    with pytest.raises(WorkdirError, match="line 2"):
        read_json(tmp_path / "value.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(WorkdirError, match=r"nothing\.json: no such file"):
        read_json(tmp_path / "nothing.json")


def test_a_file_in_place_of_a_directory_and_the_reverse_are_errors_with_the_path(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "x", tmp_path / "file" / "x" / "y", tmp_path / "folder"):
        with pytest.raises(WorkdirError, match=str(tmp_path)):
            write_atomically(path, "x")


def test_disk_errors_names_the_path_and_passes_other_errors_on():
    with (
        pytest.raises(WorkdirError, match=r"^/some/where: cannot be written \(Permission denied\)"),
        disk_errors("/some/where"),
    ):
        raise PermissionError(errno.EACCES, "Permission denied")
    with pytest.raises(ValueError, match="other"), disk_errors("/some/where"):
        raise ValueError("other")


def test_sha256_of_the_published_example(tmp_path):
    """The digest of "abc" in FIPS 180-2, appendix B.1."""
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


_WRITES_FOREVER = """
import sys, time
from pathlib import Path
from finetune_scaling.files import new_directory
with new_directory(Path(sys.argv[1])) as directory:
    (directory / "half").write_text("x")
    print("half", flush=True)
    time.sleep(600)
"""


def test_only_the_temporary_files_of_killed_writers_are_removed(tmp_path):
    killed, writing, other = (
        tmp_path / name for name in (".a.json.1.unfinished", ".a.json.2.unfinished", ".b.json.1.unfinished")
    )
    for left in (killed, writing, other):
        left.write_text("half")
    with writing.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as its writer does
        write_json_atomically(tmp_path / "a.json", [1])
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", writing.name, other.name}
    assert read_json(tmp_path / "a.json") == [1]


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    texts = [str(n) * 1000 for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write_atomically(tmp_path / "a", text), texts))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() in texts


def test_only_the_unfinished_directory_of_a_killed_process_is_removed(tmp_path):
    target = tmp_path / "made"
    writer = subprocess.Popen([sys.executable, "-c", _WRITES_FOREVER, str(target)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "half\n"
    hidden = [entry.name for entry in tmp_path.iterdir()]
    assert target.name not in hidden
    with new_directory(tmp_path / "made") as directory:  # the other process is running
        (directory / "complete").write_text("y")
        assert len(list(tmp_path.iterdir())) == 2
    writer.kill()
    writer.wait()
    (target / "complete").unlink()
    with new_directory(target) as directory:
        (directory / "complete").write_text("z")
    assert [entry.name for entry in tmp_path.iterdir()] == ["made"]
    assert [entry.name for entry in target.iterdir()] == ["complete"]
