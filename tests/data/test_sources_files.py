"""Files: records are read as written, and errors name file, line and column."""

import gzip
import json
import lzma
import pickle

import fsspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.sources import FilesSource, open_source, source_from_config
from finetune_scaling.data.sources.decompression import read_bytes
from finetune_scaling.data.sources.records import text_field
from finetune_scaling.errors import ConfigError, DataError

COMPRESS = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}
ROWS = [
    {"en": "A house.", "de": "Ein Haus."},
    {"en": "Yes\u2028no", "de": "Grüße 🙂"},
    {"en": "one\fpage\x85\r", "de": "x"},
]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x1a"))
TSV = b"en\tde\nA house.\tEin Haus.\nYes\tJa\n"


@pytest.mark.parametrize("suffix", COMPRESS)
def test_reads_jsonl_in_every_compression(tmp_path, suffix):
    path = tmp_path / f"text.jsonl{suffix}"
    path.write_bytes(COMPRESS[suffix](JSONL))
    records = open_source(FilesSource(str(path)), ("en", "de"))
    assert list(records) == ROWS
    assert records[-1] == records[2] == ROWS[2]
    with pytest.raises(IndexError):
        records[3]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_truncated_or_damaged_archive_is_an_error(tmp_path, suffix):
    path, archive = tmp_path / f"text.jsonl{suffix}", COMPRESS[suffix](JSONL * 50)
    truncated = [archive[: int(len(archive) * kept)] for kept in (0.3, 0.9, 0.99)]
    for damaged in (*truncated, JSONL, archive + b"?" + archive):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"text\.jsonl{suffix}: the archive is truncated or damaged"):
            open_source(FilesSource(str(path)))


def test_consecutive_zstandard_frames(tmp_path):
    path = tmp_path / "text.jsonl.zst"
    path.write_bytes(COMPRESS[".zst"](JSONL) + COMPRESS[".zst"](JSONL))
    assert read_bytes(str(path)) == JSONL + JSONL


def test_consecutive_xz_streams_with_padding(tmp_path):
    path = tmp_path / "text.jsonl.xz"
    path.write_bytes(COMPRESS[".xz"](JSONL) + bytes(8) + COMPRESS[".xz"](JSONL) + bytes(4))
    assert read_bytes(str(path)) == JSONL + JSONL


def test_fsspec_urls():
    with fsspec.open("memory://corpus/text.jsonl", "wb") as file:
        file.write(JSONL)
    assert list(open_source(FilesSource("text.jsonl", data_dir="memory://corpus"))) == ROWS
    with pytest.raises(DataError, match=r"memory://corpus/none\.jsonl cannot be read \(FileNotFoundError"):
        open_source(FilesSource("none.jsonl", data_dir="memory://corpus"))
    with pytest.raises(DataError, match=r"nope://a\.jsonl cannot be read .*nope.*fsspec package"):
        open_source(FilesSource("nope://a.jsonl"))


def test_tsv_columns_from_first_line_or_config(tmp_path):
    path = tmp_path / "text.tsv"
    path.write_bytes(TSV)
    assert open_source(FilesSource(str(path)), ("de",))[1] == {"en": "Yes", "de": "Ja"}
    named = open_source(FilesSource(str(path), columns=("a", "b")), ("a",))
    assert len(named) == 3
    assert named[0] == {"a": "en", "b": "de"}


def test_byte_order_mark_and_carriage_returns(tmp_path):
    path = tmp_path / "text.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + TSV.replace(b"\n", b"\r\n"))
    records = open_source(FilesSource(str(path)), ("en", "de"))
    assert list(records) == [{"en": "A house.", "de": "Ein Haus."}, {"en": "Yes", "de": "Ja"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", r"a\.jsonl is empty"),
        ("a.jsonl", b"\n \n", r"a\.jsonl is empty"),
        ("a.jsonl.gz", b"", r"a\.jsonl\.gz is empty"),
        ("a.jsonl", JSONL + b'{"en": "x", "de": }\n', r"a\.jsonl, line 4: invalid JSON \(column 19: Expecting"),
        ("a.jsonl", JSONL + b'["x"]\n', r"a\.jsonl, line 4: expected a JSON object"),
        ("a.jsonl", JSONL + b"\n" + JSONL, r"a\.jsonl, line 4 is empty; remove it"),
        ("a.jsonl", JSONL + b'{"en": "x", "de": "\xff"}\n', r"a\.jsonl, line 4, byte 20: not UTF-8"),
        ("a.jsonl", JSONL + b'{"en": "x"}\n', r"a\.jsonl, line 4: no field 'de'"),
        ("a.jsonl", JSONL + b'{"en": "x", "dee": "y"}\n', r"line 4: no field 'de'; did you mean 'dee'"),
        ("a.jsonl", JSONL + b'{"en": "x", "de": null}\n', r"line 4: field 'de' is empty or null; .*on_empty"),
        ("a.jsonl", JSONL + b'{"en": "x", "de": 3}\n', r"line 4: field 'de' must be text, not 3"),
        (
            "a.jsonl",
            JSONL + b'{"en": "x", "de": "\\ud800"}\n',
            r"a\.jsonl, line 4: invalid JSON \(column 19: a text has a lone surr",
        ),
        ("a.jsonl", JSONL + b'{"n": ' + b"9" * 5000 + b"}\n", r"a\.jsonl, line 4: .*digits"),
        ("a.jsonl", JSONL + b'{"n": ' + b"[" * 10**5 + b"\n", r"a\.jsonl, line 4: .*nested too deeply"),
        ("a.jsonl", JSONL + b'{"en": "x", "de": "y", "en": "z"}\n', r"line 4: .*the key 'en' occurs twice"),
        ("a.jsonl", JSONL + b'{"en": "x", "de": "y", "n": -Infinity}\n', r"line 4: .*-Infinity is not a number"),
        ("a.jsonl", JSONL[:-1] + JSONL, r"line 3: .*another value follows; files that were joined"),
        ("a.jsonl", JSONL + b"\xef\xbb\xbf" + JSONL, r"line 4 begins with a byte order mark .*; remove it"),
        ("a.jsonl", json.dumps(ROWS).encode(), r"a\.jsonl is one JSON array, not .*`jq -c '\.\[\]'"),
        ("a.jsonl", json.dumps(ROWS, indent=1).encode(), r"a\.jsonl is one JSON array, not JSON Lines"),
        ("a.jsonl", json.dumps(ROWS[0], indent=1).encode(), r"a\.jsonl is JSON over several lines.*`jq -c '\.'"),
        ("a.jsonl", JSONL + b'{"en": "", "de": "y"}\n', r"line 4: field 'en' is empty or null; fix or .*on_empty"),
        ("a.jsonl", JSONL + b'{"en": "x", "de": " \\u2003"}\n', r"line 4: field 'de' is empty or null; fix or"),
        ("a.tsv", TSV + b"a\t\n", r"a\.tsv, line 4: field 'de' is empty or null; fix or"),
        ("a.tsv", TSV[:-1] + TSV, r"a\.tsv, line 3: 3 columns, expected 2 .*joining files"),
        ("a.tsv", TSV + TSV, r"a\.tsv, line 4 has the names of the columns"),
        ("a.tsv", TSV + b"DE\ten\n", r"a\.tsv, line 4 has the names of the columns.* the order en, de"),
        ("a.tsv", TSV + b"\xef\xbb\xbfa\tb\n", r"a\.tsv, line 4 begins with a byte order mark"),
        ("a.jsonl", '{"en": "\u200b ", "de": "y"}'.encode(), r"line 1: field 'en' is empty or null; fix or"),
        ("a.jsonl", b'{"t": {"en": "x", "de": "y"}}', r"line 1: no field 'en'; did you mean 't\.en'"),
        ("a.jsonl", b"\xef\xbb\xbf\n", r"a\.jsonl is empty; download"),
        ("a.jsonl", JSONL.decode().encode("utf-16"), r"a\.jsonl is not a text file in UTF-8: it is UTF-16"),
        ("a.jsonl", gzip.compress(JSONL), r"a\.jsonl is not a text file in UTF-8: .* add \.gz to its name"),
        ("a.jsonl", JSONL.replace(b"\n", b"\r"), r"a\.jsonl: carriage returns end its lines"),
        ("a.tsv", TSV.replace(b"\n", b"\r"), r"a\.tsv: carriage returns end its lines"),
        ("a.tsv", TSV + b"a\tb\0\n", r"a\.tsv, line 4: has the character NUL"),
        ("a.tsv", TSV + b"\x1a", r"a\.tsv, line 4: has the character Ctrl-Z"),
        ("a.jsonl", JSONL + b'{"en": "a\\\\\\u0000b", "de": "y"}', r"a\.jsonl, line 4: has the character NUL"),
        ("a.jsonl", JSONL + b'{"en": "\\u001A", "de": "y"}', r"a\.jsonl, line 4: has the character Ctrl-Z .*u001A//g"),
        ("a.jsonl", JSONL + b"\x1a\r\n", r"a\.jsonl, line 4: has the character Ctrl-Z"),
        ("a.tsv", TSV + "a\t\u2800\u200e \n".encode(), r"a\.tsv, line 4: field 'de' is empty"),
        ("a.jsonl", json.dumps({"data": ROWS}).encode(), r"line 1: no field 'en', but a list of objects in 'data'"),
        ("a.tsv", b"en\tde\n\nx\ty\n", r"a\.tsv, line 2 is empty; remove it"),
        ("a.tsv", "en\tde\n\u200b\nx\ty\n".encode(), r"a\.tsv, line 2 is empty; remove it"),
        ("a.jsonl", JSONL + "\u200b \u200b\n".encode() + JSONL, r"a\.jsonl, line 4 is empty; remove it"),
        ("a.tsv", b"en\tde\ten\nx\ty\tz\n", r"a\.tsv, line 1: column 'en' occurs twice"),
        ("a.tsv", TSV + b"only one\n", r"a\.tsv, line 4: 1 columns, expected 2 \(en, de\)"),
        ("a.tsv", TSV + b"a\tb\tc\n", r"a\.tsv, line 4: 3 columns, expected 2"),
        ("a.tsv", TSV + b"a\t\xc3\n", r"a\.tsv, line 4, byte 3: not UTF-8"),
        ("a.tsv", b"en\tger\nx\ty\n", r"a\.tsv, line 1: no column 'de' in the first line"),
        ("a.tsv", b'"en", de\nx,y\n', r"a\.tsv is comma-separated.*pandas\.read_csv"),
        ("a.csv.gz", b"", r"a\.csv\.gz is comma-separated.*pandas\.read_csv"),
        ("a.tsv", b"en\tde\n", r"a\.tsv has no line after its header"),
    ],
)
def test_invalid_lines_are_an_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(FilesSource(name, data_dir=str(tmp_path)), ("en", "de"))


def test_an_escaped_backslash_is_no_escape_of_nul(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"en": "\\\\u0000"}')
    assert open_source(FilesSource(str(tmp_path / "a.jsonl")), ("en",))[0] == {"en": r"\u0000"}


def test_a_missing_file_a_directory_and_an_unknown_format(tmp_path):
    with pytest.raises(DataError, match=r"none\.jsonl cannot be read .*No such file"):
        open_source(FilesSource(str(tmp_path / "none.jsonl")))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match=r"folder\.jsonl cannot be read .*Is a directory"):
        open_source(FilesSource(str(tmp_path / "folder.jsonl")))
    with pytest.raises(ConfigError, match="set format to 'jsonl' or 'tsv'"):
        open_source(FilesSource("a.txt.gz"))


def test_nested_fields(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"translation": {"en": "x", "de": "y"}, "id": "7"}\n')
    open_source(FilesSource(str(path)), ("translation.en", "translation.de"))
    with pytest.raises(DataError, match=r"no field 'translation\.fr'; did you mean 'translation\.en'"):
        open_source(FilesSource(str(path)), ("translation.fr",))
    with pytest.raises(DataError, match=r"field 'id\.en': expected a group of fields in 'id', not '7'"):
        open_source(FilesSource(str(path)), ("id.en",))


def test_a_key_with_a_dot_is_a_field(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("translation.en\ttranslation.de\nx\ty\n")
    fields = ("translation.en", "translation.de")
    assert [text_field(open_source(FilesSource(str(path)), fields)[0], field, "") for field in fields] == ["x", "y"]
    record = {"a.b": "key", "a": {"c.d": "both"}, "e.f": {"g": "group"}}
    assert [text_field(record, field, "") for field in ("a.b", "a.c.d", "e.f.g")] == ["key", "both", "group"]
    with pytest.raises(DataError, match=r"no field 'a\.x'; did you mean 'a\.b'"):
        text_field(record, "a.x", "here")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"a": {"b": "x"}, "a.b": "y"}, r"field 'a\.b' is both the key 'b' in 'a' and the key 'a\.b'; rename"),
        ({}, r"here: no field 'a\.b', as the record is empty; fix or remove it"),
        ({"c": {}}, r"here: no field 'a\.b'; choose one of c$"),
    ],
)
def test_fields_with_two_readings_or_none_raise(record, message):
    with pytest.raises(DataError, match=message):
        text_field(record, "a.b", "here")


def test_records_with_an_empty_text_are_dropped_and_counted_when_asked(tmp_path, caplog):
    path = tmp_path / "a.jsonl"
    rows = [{"en": "x", "de": "y"}, {"en": " ", "de": "y"}, {"en": "x", "de": None}, {"en": "v", "de": "w"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    records = open_source(FilesSource(str(path), on_empty="drop"), ("en", "de"))
    assert list(records) == [rows[0], rows[3]]
    assert records.dropped == 2
    assert records.where(1).endswith("a.jsonl, line 4")
    assert "2 of 4 records have an empty text and are dropped" in caplog.text
    assert len(open_source(FilesSource(str(path), on_empty="drop"), ("de",))) == 3
    path.write_text(json.dumps(rows[1]))
    with pytest.raises(DataError, match="every record has an empty text in en, de"):
        open_source(FilesSource(str(path), on_empty="drop"), ("en", "de"))


def test_joined_archives_are_one_file(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(JSONL) + gzip.compress(JSONL))
    assert list(open_source(FilesSource(str(path)), ("en",))) == ROWS + ROWS


def test_source_from_config_names_the_field():
    source = source_from_config({"kind": "files", "path": "a.tsv", "columns": ["en", "de"]}, "train[0].source")
    assert source == FilesSource("a.tsv", columns=("en", "de"))
    with pytest.raises(ConfigError, match=r"train\[0\]\.source\.kind = 'file' is unknown; did you mean 'files'"):
        source_from_config({"kind": "file", "path": "a.tsv"}, "train[0].source")
    with pytest.raises(ConfigError, match=r"s\.paht is not a field of s; did you mean 'path'"):
        source_from_config({"kind": "files", "paht": "a.tsv"}, "s")


def test_records_can_be_pickled(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(JSONL)
    records = open_source(FilesSource(str(tmp_path / "a.jsonl")))
    assert list(pickle.loads(pickle.dumps(records))) == ROWS


@settings(deadline=None)
@given(st.lists(st.dictionaries(TEXTS, TEXTS, min_size=1), min_size=1), st.booleans())
def test_any_text_is_read_unchanged(tmp_path_factory, rows, ascii_only):
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    lines = [json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for row in rows]
    path.write_bytes(b"\n".join(lines))
    assert list(open_source(FilesSource(str(path)))) == rows


def test_real_translations(shared_data):
    path = str(shared_data / "mt_news" / "en-de.valid.jsonl.xz")
    records = open_source(FilesSource(path), ("en", "de"))
    with lzma.open(path, "rt", encoding="utf-8") as file:
        assert list(records) == [json.loads(line) for line in file]
    assert len(records) == 1997
    with pytest.raises(DataError, match=r"en-de\.valid\.jsonl\.xz, line 1: no field 'zh'; choose one of id, en, de"):
        open_source(FilesSource(path), ("zh",))
