"""A corpus of segments to score: hypotheses, references and sources, from memory or from text files."""

import dataclasses
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from finetune_scaling.errors import DataError
from finetune_scaling.metrics.languages import check_language
from finetune_scaling.paths import user_path
from finetune_scaling.text_lines import BYTE_ORDER_MARK, check_start, check_text, decode_line, is_blank

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """N segments in one language, with their references and sources.

    Attributes:
      hypotheses: N texts. An empty text is a hypothesis like any other.
      references: N sequences; references[i] holds the one or more references of hypotheses[i]. Blank ones and None
        count as missing and are left out, as sacrebleu does with None.
      language: language code of hypotheses and references; it selects tokenizers and stemmers.
      sources: N source texts, or None if they are unknown.

    Raises:
      DataError: there are no segments, counts differ, a segment has no reference that is not blank, or `language` is
        not a language code.
    """

    hypotheses: Sequence[str]
    references: Sequence[Sequence[str]]
    language: str
    sources: Sequence[str] | None = None

    def __post_init__(self) -> None:
        count = len(self.hypotheses)
        if not count:
            raise DataError("there are no segments to score; give at least one hypothesis and its reference")
        for name, given in (("references", self.references), ("sources", self.sources)):
            if given is not None and len(given) != count:
                raise DataError(
                    f"{count} hypotheses, but {len(given)} {name}; {name}[i] must be those of hypotheses[i]"
                )
        for name, texts in (("hypotheses", self.hypotheses), ("sources", self.sources or ())):
            for index, text in enumerate(texts):
                if not isinstance(text, str):
                    raise DataError(f"{name}[{index}] is {text!r:.40}, which is no text; give texts")
        for index, references in enumerate(self.references):
            if isinstance(references, str) or not references:
                raise DataError(
                    f"references[{index}] is {references!r}; give a list of one or more references for every segment"
                )
            if wrong := [text for text in references if not isinstance(text, str | None)]:
                raise DataError(f"references[{index}] has {wrong[0]!r}, which is no text; give texts")
            if not any(map(_is_given, references)):
                raise DataError(f"references[{index}] has only empty references; give one, or remove the segment")
        present = [[*filter(_is_given, references)] for references in self.references]
        object.__setattr__(self, "references", present)
        check_language(self.language, "target_language")

    @property
    def reference_count(self) -> str:
        """The number of references per segment, or "var" (as in sacrebleu's signatures) if it varies."""
        counts = {len(references) for references in self.references}
        return str(counts.pop()) if len(counts) == 1 else "var"


def _is_given(reference: str | None) -> bool:
    return reference is not None and not is_blank(reference)


def read_corpus(
    hypotheses: str | os.PathLike,
    references: Sequence[str | os.PathLike],
    sources: str | os.PathLike | None,
    target_language: str,
) -> Corpus:
    """Read a corpus from text files with one segment per line; `references` names one or more files.

    A blank line of one of several files of references is a missing reference; how many there are is logged.

    Raises:
      DataError: a file cannot be read, is empty, is not UTF-8, or has a different number of lines than the
        hypotheses; or all references of a segment are blank.
    """
    if not references:
        raise DataError("no file of references was given; name at least one")
    files = {path: read_segments(path) for path in (hypotheses, *references, *([] if sources is None else [sources]))}
    texts = files[hypotheses]
    for path, segments in files.items():
        if len(segments) != len(texts):
            raise DataError(
                f"{path}: {len(segments)} segments, but {hypotheses} has {len(texts)}; "
                "line k of every file must belong to the same example"
            )
    per_segment = list(zip(*(files[path] for path in references), strict=True))
    for line, own in enumerate(per_segment, start=1):
        if not any(map(_is_given, own)):
            where = " and ".join(map(str, references))
            raise DataError(f"{where}, line {line}: the reference is empty; remove this line from every file")
    for path in references:
        missing = sum(map(is_blank, files[path]))
        if missing:
            log.warning("%s: %d of %d references are empty; they count as missing", path, missing, len(texts))
    return Corpus(texts, per_segment, target_language, None if sources is None else files[sources])


def read_segments(path: str | os.PathLike) -> list[str]:
    """Return the segments of a UTF-8 text file in order; an empty line is an empty segment.

    Only "\\n" and "\\r\\n" end a segment. U+2028, U+0085, vertical tab, carriage return and similar characters are
    text: splitting at them would shift every later line against its reference. A byte order mark at the start is
    dropped.

    Raises:
      DataError: the file is missing, unreadable, empty, not UTF-8, or not lines of text (the message names the line).
    """
    try:
        data = Path(user_path(path)).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give a text file with one segment per line"
        ) from None
    check_text(data, path)
    data = data.removeprefix(BYTE_ORDER_MARK.encode())
    if not data:
        raise DataError(f"{path}: the file is empty; give a text file with one segment per line")
    lines = data.removesuffix(b"\n").split(b"\n")
    return [_segment(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def _segment(line: bytes, where: str) -> str:
    text = decode_line(line, where).removesuffix("\r")
    check_start(text, where)
    return text
