"""Package descriptions: parsing, clusters, pairs, and the datasets prepared from small lists and read back."""

import gzip
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.sources import DebianSource, apt, debian_builders, descriptions, open_source, prepare_source
from finetune_scaling.data.sources.descriptions import Description, DescriptionCorpus
from finetune_scaling.data.task import load_task
from finetune_scaling.errors import DataError

ENGLISH = """Package: zoo
Description-md5: aaaa1111
Description-en: keeper  of animals
 Zoo feeds the animals
 every day.
 .
  * lions
  * bears

Package: zoo-data
Description-md5: bbbb2222
Description-en: keeper of animals (data)

Package: broken
Description-en: without its md5
"""
GERMAN = """Package: zoo
Description-md5: aaaa1111
Description-de: Tierpfleger
 Zoo füttert die Tiere
 jeden Tag.
 .
  * Löwen
  * Bären
"""
LONG = (
    "This paragraph is shared by packages that have little else in common, and it is long enough to be a key: "
    + "x" * 20
)


def describe(package: str, synopsis: str, *paragraphs: str) -> Description:
    return Description(package, synopsis, paragraphs)


def write_lists(folder: Path, packages: int = 400) -> Path:
    """Write lists of packages, each a separate cluster, with German for all and Chinese for every second one."""
    folder.mkdir(parents=True)
    texts = {"en": "", "de": "", "zh_CN": ""}
    for i in range(packages):
        lines = {"en": (f"tool {i}", f"It does {i}."), "de": (f"Werkzeug {i}", f"Es tut {i}.")}
        lines |= {} if i % 2 else {"zh_CN": (f"工具{i}", f"它做{i}。")}
        for code, (synopsis, body) in lines.items():
            texts[code] += f"Package: p{i}\nDescription-md5: {i:032x}\nDescription-{code}: {synopsis}\n {body}\n\n"
    for code, text in texts.items():
        (folder / f"mirror_dists_stable_main_i18n_Translation-{code.replace('_', '%5f')}").write_text(text)
    (folder / "mirror_dists_stable_main_binary-amd64_Packages").write_text(
        "".join(f"Package: p{i}\nSource: s{i} (1.0)\nVersion: 1\n\n" for i in range(packages))
    )
    return folder


@pytest.fixture
def lists(tmp_path, monkeypatch) -> Path:
    folder = write_lists(tmp_path / "lists")
    monkeypatch.setattr(apt, "fetch_lists", lambda wanted: folder)
    debian_builders._read_corpus.cache_clear()
    return folder


def test_parses_descriptions():
    assert list(descriptions.parse_descriptions(ENGLISH)) == [
        ("aaaa1111", describe("zoo", "keeper of animals", "Zoo feeds the animals every day.", "* lions * bears")),
        ("bbbb2222", describe("zoo-data", "keeper of animals (data)")),
    ]


def test_synopses_and_paragraphs_are_paired_in_order():
    english, german = dict(descriptions.parse_descriptions(ENGLISH)), dict(descriptions.parse_descriptions(GERMAN))
    corpus = DescriptionCorpus(
        {"aaaa1111": {"en": english["aaaa1111"], "de": german["aaaa1111"]}}, {"aaaa1111": "test"}
    )
    assert list(descriptions.translation_pairs(corpus, "en", "de", "test")) == [
        ("zoo/aaaa1111/0", "keeper of animals", "Tierpfleger"),
        ("zoo/aaaa1111/1", "Zoo feeds the animals every day.", "Zoo füttert die Tiere jeden Tag."),
        ("zoo/aaaa1111/2", "* lions * bears", "* Löwen * Bären"),
    ]
    document = "Zoo füttert die Tiere jeden Tag.\n\n* Löwen * Bären"
    assert list(descriptions.summarization_pairs(corpus, "de", "test")) == [("zoo/aaaa1111", document, "Tierpfleger")]
    text = "keeper of animals\nZoo feeds the animals every day.\n* lions * bears"
    assert list(descriptions.texts(corpus, "en", "test")) == [("zoo/aaaa1111", text)]
    assert not list(descriptions.translation_pairs(corpus, "en", "zh", "test"))


def test_unequal_untranslated_repeated_and_held_out_pairs_are_dropped():
    def both(name: str, english: tuple[str, ...], german: tuple[str, ...]) -> dict[str, Description]:
        return {"en": describe(name, *english), "de": describe(name, *german)}

    corpus = DescriptionCorpus(
        {
            "1": both("unequal", ("a", "b", "c"), ("A", "B")),
            "2": both("untranslated", ("same", "left"), ("same", "links")),
            "3": both("repeated", ("left", "right"), ("links", "rechts")),
            "4": both("leaking", ("in the test", "up"), ("im Test", "auf")),
            "5": both("tested", ("in the test", "down"), ("geprüft", "auf")),
        },
        {"1": "train", "2": "train", "3": "train", "4": "train", "5": "test"},
    )
    pairs = [pair for _, *pair in descriptions.translation_pairs(corpus, "en", "de", "train")]
    assert pairs == [["left", "links"], ["right", "rechts"]]


def test_documents_of_later_splits_and_repeated_ones_are_dropped():
    texts = {"1": "one", "2": "two", "3": "three", "4": "two", "5": "three", "6": "one"}
    corpus = DescriptionCorpus(
        {md5: {"en": describe(f"p{md5}", "synopsis", text)} for md5, text in texts.items()},
        {"1": "train", "2": "train", "3": "train", "4": "validation", "5": "test", "6": "train"},
    )
    kept = {
        split: [key for key, *_ in descriptions.summarization_pairs(corpus, "en", split)] for split in ("train", "test")
    }
    assert kept == {"train": ["p1/1"], "test": ["p5/5"]}


def test_clusters_share_a_source_a_synopsis_or_a_long_paragraph():
    corpus = {
        "1": {"en": describe("a", "one", LONG)},
        "2": {"en": describe("b", "two", LONG)},
        "3": {"en": describe("c", "two")},
        "4": {"en": describe("a-doc", "three", "Short.")},
        "5": {"en": describe("d", "four", "Short.")},
        "6": {"en": describe("e", "five"), "de": describe("e", "fünf")},
        "7": {"en": describe("f", "six"), "de": describe("f", "fünf")},
    }
    clusters = descriptions._clusters(corpus, {"a-doc": "a"})
    groups = {frozenset(md5 for md5 in corpus if clusters[md5] == name) for name in clusters.values()}
    assert groups == {frozenset("1234"), frozenset("5"), frozenset("67")}


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=3), min_size=1, max_size=60), st.randoms())
def test_no_key_is_in_two_splits(rows, random):
    corpus = {
        f"{i:04}": {"en": describe(f"p{i}", f"synopsis {row[0]}", *(f"{LONG} {key}" for key in row[1:]))}
        for i, row in enumerate(rows)
    }
    splits = descriptions.split_by_clusters(corpus, {})
    seen: dict[str, str] = {}
    for md5, by_language in corpus.items():
        for key in (by_language["en"].synopsis, *by_language["en"].paragraphs):
            assert seen.setdefault(key, splits[md5]) == splits[md5]
    shuffled = random.sample(sorted(corpus), len(corpus))
    assert descriptions.split_by_clusters({md5: corpus[md5] for md5 in shuffled}, {}) == splits


def test_split_shares_and_stability():
    corpus = {f"{i}": {"en": describe(f"p{i}", f"tool {i}")} for i in range(4000)}
    splits = descriptions.split_by_clusters(corpus, {})
    shares = {split: sum(s == split for s in splits.values()) / 4000 for split in descriptions.SPLITS}
    assert shares["train"] == pytest.approx(0.9, abs=0.03)
    assert shares["validation"] == pytest.approx(0.05, abs=0.015)
    fewer = descriptions.split_by_clusters({md5: corpus[md5] for md5 in list(corpus)[::2]}, {})
    assert fewer == {md5: splits[md5] for md5 in fewer}


def test_very_large_clusters_are_training_data():
    corpus = {f"{i}": {"en": describe(f"p{i}", "a Haskell library")} for i in range(50)}
    corpus |= {f"x{i}": {"en": describe(f"q{i}", f"tool {i}")} for i in range(1000)}
    for name in range(60):
        splits = descriptions.split_by_clusters(corpus, {f"p{i}": f"source{name}" for i in range(50)})
        assert {splits[f"{i}"] for i in range(50)} == {"train"}


def test_datasets_end_to_end(lists, tmp_path):
    data_dir = str(tmp_path / "data")
    source = DebianSource("translation/en-de", "train", data_dir)
    with pytest.raises(DataError, match=r"not prepared in .*finetune_scaling\.prepare corpus --config="):
        open_source(source)
    sizes = prepare_source(source)["examples"]
    assert sum(sizes.values()) == 800
    records = open_source(source, ("id", "en", "de"))
    assert len(records) == sizes["train"]
    german = records[0]["en"].replace("It does", "Es tut").replace("tool", "Werkzeug")
    assert records[0]["de"] == german
    assert prepare_source(source)["examples"] == sizes
    assert prepare_source(DebianSource("text/zh", "test", data_dir))["examples"].keys() == set(descriptions.SPLITS)
    assert "工具" in open_source(DebianSource("text/zh", "train", data_dir))[0]["text"]


def test_no_source_text_is_in_two_splits_of_a_task(lists, tmp_path):
    task = load_task({"name": "debian_summarization", "sources": {"data_dir": str(tmp_path / "data")}})
    for part in task.train:
        prepare_source(part.source)
    documents = [{example["source"] for example in task.examples(split)} for split in ("train", "dev", "test")]
    assert all(documents)
    assert sum(map(len, documents)) == len(set.union(*documents)) == 1000
    assert task.examples("train").counts().keys() == {"de", "en", "zh"}


def test_lists_without_a_language_are_an_error(lists, tmp_path):
    for path in lists.glob("*Translation-zh*"):
        path.unlink()
    with pytest.raises(DataError, match=r"debian_translation/en-zh/1\.0\.0: this machine's package lists have no text"):
        prepare_source(DebianSource("translation/en-zh", "train", str(tmp_path / "data")))


def test_a_machine_without_apt_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="no apt-get; the debian tasks need a Debian or Ubuntu machine"):
        apt.fetch_lists(tmp_path / "lists")


def test_a_failed_update_leaves_no_files(tmp_path, monkeypatch):
    fake = tmp_path / "bin" / "apt-get"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'Err: could not resolve deb.example' >&2\nexit 100\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    with pytest.raises(DataError, match=r"check /etc/apt and the network.*could not resolve deb\.example"):
        apt.fetch_lists(tmp_path / "data" / "lists")
    assert not list((tmp_path / "data").iterdir())


def test_lists_are_downloaded_once_to_a_private_directory(tmp_path, monkeypatch):
    fake = tmp_path / "bin" / "apt-get"
    fake.parent.mkdir()
    fake.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
for option in "$@"; do
  case $option in Dir::State::Lists=*) printf 'Package: x\\n' > "${{option#*=}}/m_Translation-en" ;; esac
done
"""
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=":")
    for _ in range(2):
        folder = apt.fetch_lists(tmp_path / "data" / "lists")
    assert [path.name for path in apt.list_files(folder, "Translation-en")] == ["m_Translation-en"]
    (call,) = (tmp_path / "calls").read_text().splitlines()
    assert call.startswith("update")
    assert "Acquire::Languages=en,de,zh_CN" in call
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["lists"]


def test_compressed_lists_are_read_by_apt(tmp_path, monkeypatch):
    path = tmp_path / "m_Translation-en.gz"
    path.write_bytes(gzip.compress(ENGLISH.encode()))
    helper = tmp_path / "apt-helper"
    helper.write_text('#!/bin/sh\nexec gzip -dc "$2"\n')
    helper.chmod(0o755)
    monkeypatch.setattr(apt, "_HELPER", str(helper))
    assert apt.read_list(path) == ENGLISH
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DataError, match=r"m_Translation-en\.gz cannot be read"):
        apt.read_list(path)
    monkeypatch.setattr(apt, "_HELPER", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere, which reads it, is missing"):
        apt.read_list(path)
