"""A self-contained HTML page: escaped tables, inline SVG, plain CSS for light, dark and paper; nothing is fetched."""

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

CSS = """
:root {
  color-scheme: light dark;
  --ink: #1c1e21; --paper: #fcfcfa; --faint: #62676e; --rule: #d9dadd; --tint: #f1f2ee;
  --good: #00694b; --bad: #a33b00; --link: #00568a;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e7e7e4; --paper: #16181b; --faint: #a2a7ae; --rule: #3a3e44; --tint: #212429;
    --good: #58c9a3; --bad: #f2955c; --link: #7cc0ef;
  }
  figure svg { filter: invert(0.91) hue-rotate(180deg); }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Helvetica, Arial, sans-serif;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .6rem; }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p, li { max-width: 48rem; }
a { color: var(--link); }
nav { margin: 1rem 0; }
nav a { margin-right: 1rem; white-space: nowrap; }
.faint, figcaption, caption { color: var(--faint); }
.summary { background: var(--tint); border-left: 4px solid var(--link); padding: .6rem 1rem .6rem 1.6rem; }
.summary li { margin: .35rem 0; max-width: 62rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; margin: .6rem 0 1rem; }
caption { text-align: left; padding-bottom: .3rem; }
th, td { padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top; white-space: nowrap; }
th, td { border-bottom: 1px solid var(--rule); }
th { font-weight: 600; }
td.number { font-variant-numeric: tabular-nums; }
td.wrap { white-space: normal; min-width: 16rem; }
figure { margin: 1.2rem 0 2rem; }
figure svg { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .87rem; max-width: 48rem; }
details { margin: .6rem 0; }
summary { cursor: pointer; }
.holds { color: var(--good); font-weight: 600; }
.fails { color: var(--bad); font-weight: 600; }
.untold { color: var(--faint); }
code, pre { font: .85rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
pre { background: var(--tint); padding: .7rem 1rem; overflow-x: auto; }
@media print {
  body { max-width: none; font-size: 11pt; }
  figure, table { break-inside: avoid; }
  nav { display: none; }
}
"""
DECIMALS = re.compile(r"-?\d+\.\d{3,}")
VERDICT_CLASSES = {
    "holds": "holds",
    "does not hold": "fails",
    "cannot be told": "untold",
    "follows": "holds",
    "does not follow": "fails",
}


def escape(text: object) -> str:
    """Text that cannot be read as markup."""
    return html.escape(str(text))


def page(title: str, lead: str, sections: Sequence[tuple[str, str, str]]) -> str:
    """The whole page; sections are (id, heading, body)."""
    links = " ".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in sections)
    body = "".join(f'<section id="{name}"><h2>{escape(h)}</h2>{content}</section>' for name, h, content in sections)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{CSS}</style></head><body><main><h1>{escape(title)}</h1>"
        f'<p class="faint">{escape(lead)}</p><nav>{links}</nav>{body}</main></body></html>\n'
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


def figure(svg: Path, title: str, caption: str) -> str:
    """A figure from an SVG file, with its own ids so that several can share the page."""
    return f"<figure>{inline_svg(svg, title)}<figcaption>{escape(caption)}</figcaption></figure>"


def subheading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def folded(heading: str, body: str) -> str:
    """A part that opens on a click."""
    return f"<details><summary>{escape(heading)}</summary>{body}</details>"


def inline_svg(path: Path, title: str) -> str:
    """The picture as an element of the page: no header, no metadata, no namespace addresses, ids made unique."""
    text = path.read_text(encoding="utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(r'( d| x| y)="([^"]*)"', lambda m: f'{m[1]}="{re.sub(DECIMALS, _two_decimals, m[2])}"', text)
    prefix = re.sub(r"\W", "_", path.stem)
    text = re.sub(r'\bid="', f'id="{prefix}_', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}_", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)


def number(value: object, digits: int = 3) -> str:
    """A number with so many significant digits; a dash where there is none."""
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    return f"{value:.{digits}g}" if isinstance(value, int | float) else str(value)


def _two_decimals(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}".rstrip("0").rstrip(".")


def _cell(value: object, wrap: bool) -> str:
    text = number(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    kind = "number" if is_number else VERDICT_CLASSES.get(text, "wrap" if wrap else "")
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"
