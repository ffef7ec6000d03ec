"""A self-contained HTML page: escaped tables, inline SVG with what its points say, light, dark and paper.

Nothing is fetched: style and script are put in, and the page's own policy lets no other script run. The colours of
the pictures are CSS variables, so that a dark page shows their dark twins; without the script the page stays readable.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from finetune_scaling.files import read_json
from finetune_scaling.report.colours import on_black
from finetune_scaling.report.inline_svg import inline_svg

USED_COLOUR = re.compile(r"var\(--c([0-9a-f]{6})\)")
WIDE = 700  # points: a picture wider than this needs more room to be read on a phone
# "<" could begin an end tag or a comment inside a script element; the separators end a line in old scripts.
UNSAFE = re.compile("[<\u2028\u2029\ud800-\udfff]")
VERDICT_CLASSES = {
    "supported": "holds",
    "not supported": "fails",
    "inconclusive": "untold",
    "tracks": "holds",
    "does not track": "fails",
}


def escape(text: object) -> str:
    """Text that cannot be read as markup."""
    return html.escape(str(text))


def page(title: str, lead: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole page; sections are (id, heading, body)."""
    links = " ".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{escape(h)}</h2>{content}</section>' for name, h, content in sections)
    style, script = _part("report.css") + _colours(body), _part("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<style>{style}</style></head><body><a class="skip" href="#main">To the summary</a>'
        f'<main id="main"><h1>{escape(title)}</h1>'
        f'<p class="faint">{escape(lead)}</p><nav aria-label="sections">{links}</nav>{body}</main>'
        f"<script>{script}</script></body></html>\n"
    )


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>"


def bullets(lines: Iterable[str], kind: str = "") -> str:
    """A list of plain lines."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="{kind}">{items}</ul>' if items else ""


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]], wrap: Sequence[str] = ()) -> str:
    """A table; numbers are set right, verdicts in their colours, columns named in `wrap` may break lines."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(
        f"<tr>{''.join(_cell(value, name in wrap) for name, value in zip(header, row, strict=True))}</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def figure(folder: Path, name: str, title: str, caption: str) -> str:
    """A figure from folder/NAME.svg and NAME.json, with its own ids so that several can share the page."""
    record = read_json(folder / f"{name}.json", mend="run the command again")
    svg, width = inline_svg(folder / f"{name}.svg", title)
    kind = "canvas wide" if width > WIDE else "canvas"
    return (
        f'<figure><div class="frame"><div class="{kind}" style="width:{width * 4 / 3:.0f}px">{svg}</div></div>'
        f'<script type="application/json">{_readings(record)}</script>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def subheading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def folded(heading: str, body: str) -> str:
    """A part that opens on a click."""
    return f"<details><summary>{escape(heading)}</summary>{body}</details>"


def number(value: object, digits: int = 3) -> str:
    """A number with so many significant digits; a dash where there is none."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    return f"{value:.{digits}g}" if isinstance(value, int | float) else str(value)


def _cell(value: object, wrap: bool) -> str:
    text = number(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = "number" if is_number else VERDICT_CLASSES.get(text, "wrap" if wrap else "")
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _readings(record: dict) -> str:
    """What the script reads: places in the SVG and what they say, as JSON that is safe inside a script element."""
    points = record["points"]
    series = [[one["group"], one["name"], one["colour"].removeprefix("#")] for one in record["series"]]
    value = {"series": series, "series_of": points["series"], "text": points["text"]}
    value |= {"x": points["svg_x"], "y": points["svg_y"]}
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return UNSAFE.sub(lambda char: f"\\u{ord(char[0]):04x}", text)


def _colours(body: str) -> str:
    """The pictures' colours as variables: as they are on paper, and their twins on a dark page."""
    used = sorted({*USED_COLOUR.findall(body), *re.findall(r'\["[^"]*","[^"]*","([0-9a-f]{6})"\]', body)})
    light = "".join(f"--c{colour}:#{colour};" for colour in used)
    dark = "".join(f"--c{colour}:{on_black('#' + colour)};" for colour in used)
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}\n"


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
