"""The identity of a file: unknown where a change might not be noticed."""

import os

from finetune_scaling.data.file_identity import file_identity


def test_the_identity_changes_with_size_time_and_path(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("one")
    assert file_identity(str(path)) is None  # changed a moment ago
    os.utime(path, (1e9, 1e9))
    found = file_identity(str(path))
    assert found == {"path": str(path), "size": 3, "mtime_ns": 10**18}
    (tmp_path / "link").symlink_to(path)
    assert file_identity(str(tmp_path / "link")) == found
    os.utime(path, ns=(0, 10**18 + 1000))
    assert file_identity(str(path)) not in (None, found)


def test_of_other_places_it_is_unknown(tmp_path):
    assert file_identity("https://example.org/train.jsonl") is None
    assert file_identity(str(tmp_path / "missing")) is None
