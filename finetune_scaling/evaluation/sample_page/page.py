"""One HTML page of samples that fetches nothing, and its scores as JSON beside it.

The page is page.html with page.css, the scripts and the data put in. The data is JSON inside a script element, which no
text can end; the page's script puts texts in as text, and its policy lets no other script run and nothing be fetched.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.sample_page.samples import Example, RunSamples
from finetune_scaling.evaluation.sample_page.sentence_scores import SentenceScores
from finetune_scaling.files import write_atomically, write_json_atomically

SCRIPTS = ("marks.js", "page.js")  # one script on the page, in this order
METRIC_NAMES = {"chrf": "chrF", "rougeL": "ROUGE-L"}
# "<" could begin an end tag or a comment; the separators end a line in old scripts; halves of pairs are not UTF-8.
_UNSAFE = re.compile("[<\u2028\u2029\ud800-\udfff]")
_SLOT = re.compile(r"\{\{(\w+)\}\}")


def write_samples(
    out: Path, split: str, runs: Sequence[RunSamples], examples: Sequence[Example], scores: SentenceScores
) -> Path:
    """Writes the page to `out`, which ends in .html, and the scores to the same name in .json; returns the latter."""
    if out.suffix != ".html":
        raise ConfigError(f"--out={out} must end in .html; the scores go to the same name in .json")
    twin = out.with_suffix(".json")
    write_atomically(out, page(split, runs, examples, scores))
    write_json_atomically(twin, record(split, runs, examples, scores))
    return twin


def page(split: str, runs: Sequence[RunSamples], examples: Sequence[Example], scores: SentenceScores) -> str:
    """The page as text."""
    style, script = _part("page.css"), "\n".join(map(_part, SCRIPTS))
    names = ", ".join(run.name for run in runs)
    parts = {
        "policy": f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'",
        "title": html.escape(f"Samples of {split}: {names}"),
        "heading": html.escape(f"Samples of {split}"),
        "lead": f"{len(examples)} examples, {len(runs)} {'runs' if len(runs) > 1 else 'run'}",
        "style": style,
        "script": script,
        "data": data(split, runs, examples, scores),
    }
    return _SLOT.sub(lambda slot: parts[slot[1]], _part("page.html"))


def data(split: str, runs: Sequence[RunSamples], examples: Sequence[Example], scores: SentenceScores) -> str:
    """What the page's script reads: a column for each field, as JSON that is safe inside a script element."""
    columns = {
        "split": split,
        "metric": METRIC_NAMES[scores.metric],
        "signature": scores.signature,
        "index": [example.index for example in examples],
        "source": [example.source for example in examples],
        "reference": [example.reference for example in examples],
        "language": [example.target_language for example in examples],
        "runs": [
            {
                "name": run.name,
                "hypothesis": [example.hypotheses[place] for example in examples],
                "score": [_rounded(row[place], 2) for row in scores.rows],
                "loss": [_rounded(example.losses[place], 3) for example in examples],
            }
            for place, run in enumerate(runs)
        ],
    }
    text = json.dumps(columns, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda char: f"\\u{ord(char[0]):04x}", text)


def record(
    split: str, runs: Sequence[RunSamples], examples: Sequence[Example], scores: SentenceScores
) -> dict[str, Any]:
    """The machine-readable twin: scores and losses, unrounded, of every example and run; the texts are in the rows."""
    return {
        "split": split,
        "metric": scores.metric,
        "signature": scores.signature,
        "runs": [
            {"name": run.name, "rows": str(run.path), "mean_score": _mean([row[place] for row in scores.rows])}
            for place, run in enumerate(runs)
        ],
        "examples": [
            {"index": example.index, "scores": list(row), "losses": [_finite(loss) for loss in example.losses]}
            for example, row in zip(examples, scores.rows, strict=True)
        ],
    }


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    """A content-security policy's source for an inline element of this text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None


def _rounded(value: float | None, digits: int) -> float | None:
    known = _finite(value)
    return None if known is None else round(known, digits)
