"""TFDS datasets as sources, with random access to array_record files and without TensorFlow."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune_scaling.configuration import suggestion
from finetune_scaling.data.sources.records import check_first_record
from finetune_scaling.errors import DataError
from finetune_scaling.files import disk_errors

# TFDS finds a dataset only after its module is imported: text datasets and those of this project.
_BUILDER_MODULES = (
    "tensorflow_datasets.translate",
    "tensorflow_datasets.summarization",
    "tensorflow_datasets.text",
    "finetune_scaling.data.sources.debian_builders",
)

DebianDataset = Literal[
    "translation/en-de", "translation/en-zh",
    "summarization/de", "summarization/en", "summarization/zh",
    "text/de", "text/en", "text/zh",
]  # fmt: skip


@dataclass(frozen=True)
class TfdsSource:
    """A split of a dataset of TFDS: name "wmt14_translate/de-en", split "train" or "train[:90%]"."""

    name: str
    split: str
    data_dir: str | None = None  # None: TFDS's default, ~/tensorflow_datasets or TFDS_DATA_DIR
    kind: Literal["tfds"] = "tfds"

    def __str__(self) -> str:
        return f"{self.name}, split {self.split!r}"


@dataclass(frozen=True)
class DebianSource:
    """A split of a dataset of the machine's package descriptions, which debian_builders.py builds.

    dataset: translation (fields id, en and de or zh), summarization (id, document, summary) or text (id, text).
    """

    dataset: DebianDataset
    split: Literal["train", "validation", "test"]
    data_dir: str | None = None  # None: TFDS's default, ~/tensorflow_datasets or TFDS_DATA_DIR
    kind: Literal["debian"] = "debian"

    def __str__(self) -> str:
        return f"debian_{self.dataset}, split {self.split!r}"

    @property
    def tfds(self) -> TfdsSource:
        """The same split as a source of TFDS."""
        return TfdsSource(f"debian_{self.dataset}", self.split, self.data_dir)


class TfdsRecords(Sequence[dict[str, Any]]):
    """The records of a TFDS data source, with text as str rather than bytes.

    Reading a record whose bytes are not UTF-8 raises DataError that begins with `name`.
    """

    def __init__(self, records: Sequence[Any], name: str) -> None:
        self._records, self._name = records, name

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:  # type: ignore[override]
        index = range(len(self))[index]
        return _text(self._records[index], f"{self._name}, record {index}")


def open_tfds(source: TfdsSource, fields: Sequence[str] = ()) -> TfdsRecords:
    """Open a prepared split.

    Raises DataError if the dataset or split is unknown, the dataset is not prepared as array_record, or its first
    record has no text in one of `fields`.
    """
    builder = _builder(source)
    if not builder.is_prepared():
        raise DataError(f"{source}: not prepared in {builder.data_dir}; {_how_to_prepare(source)}")
    try:
        records = TfdsRecords(builder.as_data_source(source.split), str(source))
    except NotImplementedError:
        raise DataError(
            f"{source}: {builder.data_dir} has {builder.info.file_format.value} files, which have no random access; "
            f"delete that directory or choose another data_dir, then {_how_to_prepare(source)}"
        ) from None
    except (ValueError, KeyError, AssertionError) as error:
        raise DataError(
            f"{source}: unknown split{suggestion(source.split, builder.info.splits)} ({_first_line(error)})"
        ) from None
    check_first_record(records, fields, str(source))
    return records


def prepare_tfds(source: TfdsSource) -> dict[str, Any]:
    """Download and prepare the dataset as array_record files if necessary; return its split sizes.

    Raises DataError if a download fails or a file that has to be downloaded manually is missing.
    """
    import tensorflow_datasets as tfds

    builder = _builder(source)
    try:
        with disk_errors(builder.data_dir):
            builder.download_and_prepare(file_format="array_record")
    except (OSError, AssertionError, tfds.download.DownloadError) as error:  # AssertionError: manual download
        reason = " ".join(str(error).split())
        raise DataError(f"{source.name} cannot be prepared ({reason}); fix that and run it again") from error
    open_tfds(source)
    sizes = {name: int(split.num_examples) for name, split in builder.info.splits.items()}
    return {"source": source.name, "directory": str(builder.data_dir), "examples": sizes}


def _builder(source: TfdsSource) -> Any:
    import tensorflow_datasets as tfds

    for module in _BUILDER_MODULES:
        importlib.import_module(module)
    options = {"data_dir": str(Path(source.data_dir).expanduser())} if source.data_dir else {}
    try:
        return tfds.builder(source.name, **options)
    except tfds.core.DatasetNotFoundError:
        raise DataError(f"TFDS has no dataset {_suggest_dataset(source.name.split('/')[0])}") from None
    except ValueError as error:
        raise DataError(f"TFDS dataset {source.name!r}: {_unknown_config(source.name) or _first_line(error)}") from None


def _suggest_dataset(name: str) -> str:
    import tensorflow_datasets as tfds

    hint = suggestion(name, tfds.list_builders(with_community_datasets=False))
    catalog = "; see https://www.tensorflow.org/datasets/catalog/overview"
    return repr(name) + (hint if "did you mean" in hint else catalog)


def _unknown_config(name: str) -> str:
    import tensorflow_datasets as tfds

    dataset, _, config = name.partition("/")
    known = list(tfds.builder_cls(dataset).builder_configs)
    return f"unknown config {config!r}{suggestion(config, known)}" if known and config not in known else ""


def _how_to_prepare(source: TfdsSource) -> str:
    data_dir = f", data_dir={source.data_dir!r}" if source.data_dir else ""
    return (
        "run python -m finetune_scaling.prepare corpus --config=FILE with that config, or in Python "
        f"tfds.builder({source.name!r}{data_dir}).download_and_prepare(file_format='array_record')"
    )


def _first_line(error: Exception) -> str:
    return str(error.args[0] if error.args else error).strip().split("\n")[0]


def _text(value: Any, where: str, field: str = "") -> Any:
    if isinstance(value, bytes):
        return _decoded(value, where, field)
    if isinstance(value, Mapping):
        return {key: _text(entry, where, f"{field}.{key}" if field else key) for key, entry in value.items()}
    return value


def _decoded(value: bytes, where: str, field: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: field {field!r} is not UTF-8 ({error.reason} at byte {error.start}); convert or remove it"
        ) from None
