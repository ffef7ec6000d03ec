"""Writes the report as one self-contained HTML page with inline SVG; it loads nothing and has no script."""

import re
from collections.abc import Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from finetune_scaling.analysis.claims import CONFIDENCE, INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED
from finetune_scaling.analysis.correlation import DOES_NOT_TRACK, MIN_SETTINGS, TRACKING_THRESHOLD, TRACKS_LOSS
from finetune_scaling.analysis.critical_sizes import SEARCH_RANGE
from finetune_scaling.analysis.metric_laws import METRIC_LAWS, MIN_R_SQUARED
from finetune_scaling.analysis.model_selection import DECISIVE
from finetune_scaling.files import write_atomically
from finetune_scaling.formatting import format_count, format_share
from finetune_scaling.report.report_directory import PLOTS
from finetune_scaling.report.sections import Section

# Of the texts in introductions.html.
NUMBERS = {
    "CONFIDENCE": CONFIDENCE,
    "DECISIVE": DECISIVE,
    "MIN_SETTINGS": MIN_SETTINGS,
    "METRIC_LAWS": METRIC_LAWS,
    "MIN_R_SQUARED": MIN_R_SQUARED,
    "SEARCH_RANGE": SEARCH_RANGE,
    "TRACKING_THRESHOLD": TRACKING_THRESHOLD,
}
VERDICTS = (SUPPORTED, NOT_SUPPORTED, TRACKS_LOSS, DOES_NOT_TRACK, INCONCLUSIVE)
LONG = 48  # characters: longer cells may break lines
REMOVED = re.compile(r'<metadata>.*?</metadata>|<!--.*?-->| xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', re.DOTALL)
COORDINATES = re.compile(r'\b(?:d|x|y)="[^"]*"')
NUMBER = re.compile(r"-?\d+\.\d{3,}")


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page; the SVG files of its plots must exist in the folder plots next to it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("finetune_scaling.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "cell_class": _cell_class,
        "as_count": format_count,
        "as_share": format_share,
        "svg": lambda plot: _inline_svg(path.parent / PLOTS / f"{plot.name}.svg"),
    }
    text = environment.get_template("report.html").render(title=title, lead=lead, sections=sections, **NUMBERS)
    write_atomically(path, text)


def _cell_class(text: str) -> str:
    return text.replace(" ", "-") if text in VERDICTS else "wrap" if len(text) > LONG else ""


def _inline_svg(file: Path) -> Markup:
    """Return the SVG element of a file without metadata and the ids of groups, which plots share."""
    svg = file.read_text(encoding="utf-8")
    svg = REMOVED.sub("", svg[svg.index("<svg") :]).replace("xlink:href", "href")
    return Markup(COORDINATES.sub(lambda found: NUMBER.sub(lambda n: f"{float(n[0]):.2f}", found[0]), svg))
