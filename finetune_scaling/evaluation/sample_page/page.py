"""One self-contained HTML page of samples, and its scores as JSON.

The template page.html includes style sheet, scripts and data. The data is JSON in a script element, escaped by jinja2's
tojson so that no text can end the element; the script inserts texts as text nodes, and the content security policy
blocks other scripts and all network requests.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.sample_page.samples import RunSamples, Sample
from finetune_scaling.evaluation.sample_page.sentence_scores import SentenceScores
from finetune_scaling.files import finite_or_none, write_atomically, write_json_atomically

SCRIPTS = ("differences.js", "page.js")  # concatenated in this order
METRIC_NAMES = {"chrf": "chrF", "rougeL": "ROUGE-L"}


def write_page(
    out: Path, split: str, runs: Sequence[RunSamples], samples: Sequence[Sample], scores: SentenceScores
) -> Path:
    """Write the page to `out` (NAME.html) and the scores to NAME.json; return the path of the latter."""
    if out.suffix != ".html":
        raise ConfigError(f"--out={out} must end in .html; the scores are written to the same name with .json")
    json_path = out.with_suffix(".json")
    write_atomically(out, page(split, runs, samples, scores))
    write_json_atomically(json_path, scores_record(split, runs, samples, scores))
    return json_path


def page(split: str, runs: Sequence[RunSamples], samples: Sequence[Sample], scores: SentenceScores) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(autoescape=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
    environment.filters["csp_hash"] = _csp_hash
    return environment.from_string(_read_part("page.html")).render(
        split=split,
        runs=runs,
        examples=len(samples),
        style=Markup(_read_part("page.css")),
        script=Markup("\n".join(map(_read_part, SCRIPTS))),
        data=page_data(split, runs, samples, scores),
    )


def page_data(
    split: str, runs: Sequence[RunSamples], samples: Sequence[Sample], scores: SentenceScores
) -> dict[str, Any]:
    """Return the data of the page's script, one column per field."""
    return {
        "split": split,
        "metric": METRIC_NAMES[scores.metric],
        "signature": scores.signature,
        "index": [sample.index for sample in samples],
        "source": [sample.source for sample in samples],
        "reference": [sample.reference for sample in samples],
        "language": [sample.target_language for sample in samples],
        "runs": [
            {
                "name": run.name,
                "hypothesis": [sample.hypotheses[number] for sample in samples],
                "atLimit": [sample.at_limit[number] if sample.at_limit else None for sample in samples],
                "score": [_rounded(row[number], 2) for row in scores.rows],
                "loss": [_rounded(sample.losses[number], 3) for sample in samples],
            }
            for number, run in enumerate(runs)
        ],
    }


def scores_record(
    split: str, runs: Sequence[RunSamples], samples: Sequence[Sample], scores: SentenceScores
) -> dict[str, Any]:
    """Return unrounded scores and losses of every sample and run; the texts remain in the runs' rows."""
    return {
        "split": split,
        "metric": scores.metric,
        "signature": scores.signature,
        "runs": [
            {"name": run.name, "rows": str(run.path), "mean_score": _mean([row[number] for row in scores.rows])}
            for number, run in enumerate(runs)
        ],
        "examples": [
            {"index": sample.index, "scores": list(row), "losses": [finite_or_none(loss) for loss in sample.losses]}
            for sample, row in zip(samples, scores.rows, strict=True)
        ],
    }


def _read_part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _csp_hash(text: str) -> str:
    """Return the content-security-policy source of an inline element."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rounded(value: float | None, digits: int) -> float | None:
    known = finite_or_none(value)
    return None if known is None else round(known, digits)
