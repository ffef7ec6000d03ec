"""Writes the report as one self-contained HTML page with inline SVG; it loads nothing and has no script."""

import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from finetune_scaling.analysis.claims import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED
from finetune_scaling.analysis.correlation import DOES_NOT_TRACK, TRACKS_LOSS
from finetune_scaling.files import write_atomically
from finetune_scaling.report.plots import Plot
from finetune_scaling.report.sections import Section

LONG = 48  # characters: longer cells may break lines
CELL_CLASSES = {
    SUPPORTED: "supported",
    TRACKS_LOSS: "supported",
    NOT_SUPPORTED: "not-supported",
    DOES_NOT_TRACK: "not-supported",
    INCONCLUSIVE: "inconclusive",
}
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
    environment.filters["cell_class"] = lambda text: CELL_CLASSES.get(text, "wrap" if len(text) > LONG else "")
    style = Markup(resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8"))
    template = environment.get_template("report.html")
    text = template.render(
        title=title,
        lead=lead,
        sections=sections,
        style=style,
        svg=lambda plot: _inline_svg(path.parent / "plots", plot),
    )
    write_atomically(path, text)


def _inline_svg(folder: Path, plot: Plot) -> Markup:
    """Return a plot's SVG element without header and metadata; its ids are unique in the page."""
    svg = (folder / f"{plot.name}.svg").read_text(encoding="utf-8")
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    width = float(svg.split('viewBox="0 0 ')[1].split(" ")[0])
    head = f'<svg role="img" aria-label="{Markup.escape(plot.title)}" style="width:{width * 4 / 3:.0f}px"'
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'{head} viewBox="\1">', svg, count=1)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg).replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{plot.name}-', svg)
    svg = re.sub(r'(href="|url\()#', rf"\1#{plot.name}-", svg)
    svg = COORDINATES.sub(lambda found: NUMBER.sub(lambda n: f"{float(n[0]):.2f}", found[0]), svg)
    return Markup(re.sub(r"\s+", " ", svg))
