"""TFDS: a small dataset is prepared without TensorFlow and read back; errors name the dataset, record and field."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from finetune_scaling.data.sources import TfdsSource, open_source, prepare_source
from finetune_scaling.data.sources.tfds_source import decode_records
from finetune_scaling.errors import DataError

ROWS = [{"translation": {"en": f"house {i}", "de": f"Häuser {i}"}, "number": i} for i in range(10)]


class ToyPairs(tfds.core.GeneratorBasedBuilder):
    """Nested records of two languages, and a number that is no text."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        text = tfds.features.Text()
        features = {"translation": tfds.features.FeaturesDict({"en": text, "de": text}), "number": np.int32}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        return ((str(row["number"]), row) for row in ROWS)


class ToyManual(ToyPairs):
    """A dataset whose file must be downloaded manually."""

    name = "toy_manual"
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Download big.zip from its owners."

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(dl_manager.manual_dir)}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("tfds"))
    report = prepare_source(TfdsSource("toy_pairs", "train", folder))
    assert report["examples"] == {"train": 10}
    return folder


def test_a_prepared_dataset_is_read(data_dir):
    records = open_source(TfdsSource("toy_pairs", "train", data_dir), ("translation.en", "translation.de"))
    assert len(records) == 10
    by_number = {int(records[i]["number"]): records[i]["translation"] for i in range(10)}
    assert by_number == {row["number"]: row["translation"] for row in ROWS}
    assert records[-1] == records[9]
    assert "tensorflow" not in sys.modules


def test_text_that_is_not_utf8_is_named_by_record_and_field():
    rows = [{"translation": {"en": b"house", "de": text}} for text in ("Häuser".encode(), b"H\xe4user")]
    records = decode_records(rows, "toy_pairs, split 'train'")
    assert records[0] == {"translation": {"en": "house", "de": "Häuser"}}
    expected = r"^toy_pairs, split 'train', record 1: field 'translation.de' is not UTF-8 \(.* at byte 1\); convert"
    for index in (1, -1):
        with pytest.raises(DataError, match=expected):
            records[index]


def test_slices_of_splits(data_dir):
    assert len(open_source(TfdsSource("toy_pairs", "train[:30%]", data_dir))) == 3


@pytest.mark.parametrize(
    ("name", "split", "fields", "message"),
    [
        ("toy_pair", "train", (), "TFDS has no dataset 'toy_pair' .*did you mean 'toy_pairs'"),
        ("zzzzqqqq", "train", (), "TFDS has no dataset 'zzzzqqqq' .*see https://"),
        ("wmt14_translate/de_en", "train", (), "TFDS has no dataset .*did you mean 'wmt14_translate/de-en'"),
        ("wmt14_translate/de-en", "train", (), "not prepared in .*finetune_scaling.prepare corpus --config=FILE"),
        ("toy_pairs", "trian", (), "unknown split; did you mean 'train'"),
        ("toy_pairs", "train[:x]", (), "unknown split"),
        ("toy_pairs", "train", ("translation.fr",), "no field 'translation.fr'; did you mean 'translation.en'"),
        ("toy_pairs", "train", ("number",), "field 'number' must be text"),
    ],
)
def test_errors_name_the_field(data_dir, name, split, fields, message):
    with pytest.raises(DataError, match=message):
        open_source(TfdsSource(name, split, data_dir), fields)


def test_files_without_random_access_are_named(tmp_path):
    source = TfdsSource("toy_pairs", "train", str(tmp_path))
    prepare_source(source)
    info = next(Path(tmp_path).glob("toy_pairs/*/dataset_info.json"))
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=r"has tfrecord files.*data_dir"):
        open_source(source)


def test_a_manual_download_is_named(tmp_path):
    with pytest.raises(DataError, match=r"toy_manual cannot be prepared .*big\.zip"):
        prepare_source(TfdsSource("toy_manual", "train", str(tmp_path)))


def test_a_failed_download_is_named(tmp_path, monkeypatch):
    def fail(self, *args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(ToyPairs, "_split_generators", fail)
    with pytest.raises(DataError, match=r"toy_pairs cannot be prepared \(no route to host"):
        prepare_source(TfdsSource("toy_pairs", "train", str(tmp_path)))
