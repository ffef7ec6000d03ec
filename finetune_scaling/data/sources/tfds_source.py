"""TFDS datasets as sources, with random access to array_record files and without TensorFlow."""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune_scaling.configuration import closest, suggestion
from finetune_scaling.data.sources.records import OnEmpty, Records
from finetune_scaling.errors import DataError
from finetune_scaling.files import disk_errors
from finetune_scaling.messages import one_line
from finetune_scaling.paths import UserPath, user_path

# TFDS finds a dataset only after its module is imported: text datasets and those of this project.
_BUILDER_MODULES = (
    "tensorflow_datasets.translate",
    "tensorflow_datasets.summarization",
    "tensorflow_datasets.text",
    "finetune_scaling.data.sources.debian_builders",
)

_PREPARE = "run python -m finetune_scaling.prepare corpus --config=FILE with that config"

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
    data_dir: UserPath | None = None  # None: TFDS's default, ~/tensorflow_datasets or TFDS_DATA_DIR
    on_empty: OnEmpty = "error"  # what to do with records that have an empty or blank text; "drop" reads all of them
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
    data_dir: UserPath | None = None  # None: TFDS's default, ~/tensorflow_datasets or TFDS_DATA_DIR
    on_empty: OnEmpty = "error"  # what to do with records that have an empty or blank text; "drop" reads all of them
    kind: Literal["debian"] = "debian"

    def __str__(self) -> str:
        return f"{self.name}, split {self.split!r}"

    @property
    def name(self) -> str:
        """The name of the dataset in TFDS."""
        return f"debian_{self.dataset}"


def decode_records(records: Sequence[Any], name: str) -> Records:
    """Return the records of a TFDS data source, with text as str rather than bytes.

    Reading a record whose bytes are not UTF-8 raises DataError that begins with `name`.
    """

    def where(index: int) -> str:
        return f"{name}, record {index}"

    return Records(len(records), lambda index: _text(records[index], where(index)), where)


def open_tfds(source: TfdsSource | DebianSource, fields: Sequence[str] = ()) -> Records:
    """Open a prepared split.

    Raises DataError if the dataset or split is unknown, or the dataset is not prepared as array_record.
    """
    builder = _builder(source)
    if not builder.is_prepared():
        raise DataError(f"{source}: not prepared in {builder.data_dir}; {_PREPARE}")
    try:
        return decode_records(builder.as_data_source(source.split), str(source))
    except NotImplementedError:
        raise DataError(
            f"{source}: {builder.data_dir} has {builder.info.file_format.value} files, which have no random access; "
            f"delete that directory or choose another data_dir, then {_PREPARE}"
        ) from None
    except (ValueError, KeyError, AssertionError) as error:
        raise DataError(
            f"{source}: unknown split{suggestion(source.split, builder.info.splits)} ({_first_line(error)})"
        ) from None


def prepare_tfds(source: TfdsSource | DebianSource) -> dict[str, Any]:
    """Download and prepare the dataset as array_record files if necessary; return its split sizes.

    Raises DataError if a download fails or a file that has to be downloaded manually is missing.
    """
    import tensorflow_datasets as tfds

    builder = _builder(source)
    try:
        with disk_errors(builder.data_dir):
            builder.download_and_prepare(file_format="array_record")
    except (OSError, AssertionError, tfds.download.DownloadError) as error:  # AssertionError: manual download
        reason = one_line(str(error))
        raise DataError(f"{source.name} cannot be prepared ({reason}); fix that and run it again") from error
    open_tfds(source)
    sizes = {name: int(split.num_examples) for name, split in builder.info.splits.items()}
    return {"source": source.name, "directory": str(builder.data_dir), "examples": sizes}


def _builder(source: TfdsSource | DebianSource) -> Any:
    import tensorflow_datasets as tfds

    for module in _BUILDER_MODULES:
        importlib.import_module(module)
    options = {"data_dir": user_path(source.data_dir)} if source.data_dir else {}
    try:
        return tfds.builder(source.name, **options)
    except ValueError as error:
        dataset, names = source.name.split("/")[0], tfds.list_builders(with_community_datasets=False)
        if dataset in names:
            names = [f"{dataset}/{config}" for config in tfds.builder_cls(dataset).builder_configs]
        near = closest(source.name, names)
        hint = f"did you mean {near!r}?" if near else "see https://www.tensorflow.org/datasets/catalog/overview"
        raise DataError(f"TFDS has no dataset {source.name!r} ({_first_line(error)}); {hint}") from None


def _first_line(error: Exception) -> str:
    return str(error.args[0] if error.args else error).strip().split("\n")[0]


def _text(value: Any, where: str, field: str = "") -> Any:
    """Return a value with bytes decoded, at any depth of groups."""
    if isinstance(value, Mapping):
        return {key: _text(entry, where, f"{field}.{key}" if field else key) for key, entry in value.items()}
    try:
        return value.decode("utf-8") if isinstance(value, bytes) else value
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where}: field {field!r} is not UTF-8 ({error.reason} at byte {error.start}); convert or remove it"
        ) from None
