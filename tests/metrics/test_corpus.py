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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf16_is_an_error(encoding, tmp_path):
    (tmp_path / "text").write_bytes("gut\n".encode(encoding))
    with pytest.raises(DataError, match=r"UTF-16|line 1: has the character NUL"):
        read_segments(tmp_path / "text")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Wort\rHaus\r", "text: carriage returns end its lines"),
        (b"Wort\nHa\0us\n", "text, line 2: has the character NUL"),
        (b"Wort\nHaus\n\x1a", "text, line 3: has the character Ctrl-Z"),
    ],
)
def test_characters_of_no_text_are_an_error(content, message, tmp_path):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_segments(tmp_path / "text")


def test_a_byte_order_mark_within_a_line_is_named(tmp_path, caplog):
    (tmp_path / "text").write_bytes("Wort\nHaus\ufeffBaum\n".encode())
    assert read_segments(tmp_path / "text") == ["Wort", "Haus\ufeffBaum"]
    assert "text, line 2: has a byte order mark" in caplog.text


@pytest.mark.parametrize("text", [3, None, float("nan")])
@pytest.mark.parametrize("what", ["hypotheses", "sources"])
def test_values_that_are_no_text_are_an_error(what, text):
    texts = {"hypotheses": ["a", "b"], "sources": ["a", "b"], what: ["a", text]}
    with pytest.raises(DataError, match=rf"{what}\[1\] is {text}, which is no text"):
        Corpus(references=[["a"], ["b"]], language="en", **texts)


@pytest.mark.parametrize(
    "blank", ["", " ", "\u200b", " \u2060 \xad", "\u3164", "\u2800 \u200e", "\u200b\u200f\t\ufe0f", "\U000e0020"]
)
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
