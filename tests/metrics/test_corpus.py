"""Files of segments: only a line feed ends a segment, and invalid files are errors."""

import pytest

from finetune_scaling.errors import DataError
from finetune_scaling.metrics.corpus import Corpus, read_segments

NOT_A_LINE_END = ["\u2028", "\u2029", "\x0b", "\x0c", "\x85", "\x1c", "\r"]


@pytest.mark.parametrize("character", NOT_A_LINE_END)
def test_other_separators_are_text(tmp_path, character):
    path = tmp_path / "segments.txt"
    path.write_bytes(f"one{character}still one\ntwo\n".encode())
    assert read_segments(path) == [f"one{character}still one", "two"]


@pytest.mark.parametrize(
    ("text", "segments"),
    [("a\nb\n", ["a", "b"]), ("a\nb", ["a", "b"]), ("\n", [""]), ("a\n\n", ["a", ""]), ("\n\na", ["", "", "a"])],
)
def test_empty_lines_are_segments_and_the_last_line_feed_is_optional(tmp_path, text, segments):
    path = tmp_path / "segments.txt"
    path.write_bytes(text.encode())
    assert read_segments(path) == segments


def test_a_byte_order_mark_and_carriage_returns_of_windows_are_dropped(tmp_path):
    path = tmp_path / "segments.txt"
    path.write_bytes("Wort\r\n\r\nHaus\r\n".encode("utf-8-sig"))
    assert read_segments(path) == ["Wort", "", "Haus"]


def test_a_byte_order_mark_of_a_joined_file_is_an_error(tmp_path):
    path = tmp_path / "joined.txt"
    path.write_bytes(b"Wort\n" + "Haus\n".encode("utf-8-sig"))
    with pytest.raises(DataError, match=r"joined\.txt, line 2 begins with a byte order mark"):
        read_segments(path)


@pytest.mark.parametrize("blank", ["", " ", "\u200b", " \u2060 \xad"])
def test_blank_references_count_as_missing(blank):
    with pytest.raises(DataError, match=r"references\[1\] has only empty"):
        Corpus(["a", "b"], [["a"], [blank]], "en")
    assert Corpus(["a"], [[blank, "a"]], "en").references == [["a"]]


def test_invalid_utf8_is_reported_with_file_and_line(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("gut\nschön\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt, line 2, byte 4: not UTF-8"):
        read_segments(path)


def test_missing_and_empty_files_are_errors(tmp_path):
    with pytest.raises(DataError, match=r"absent\.txt: cannot be read"):
        read_segments(tmp_path / "absent.txt")
    with pytest.raises(DataError, match="cannot be read"):
        read_segments(tmp_path)
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError, match=r"empty\.txt: the file is empty"):
        read_segments(tmp_path / "empty.txt")
