"""Matplotlib's SVG files as elements of a page: small, coloured by CSS variables, with ids of their own.

Repeated styles become classes, whose names follow from what they say, so that pictures may share them. Ids that
nothing refers to go, as do metadata, comments, blanks and digits beyond what is seen; ids of series become classes.
"""

import hashlib
import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

COLOUR = re.compile(r"#[0-9a-f]{6}\b")
NUMBER = re.compile(r"-?\d+\.\d+")
REFERENCE = re.compile(r"#([^)\"']+)")
SERIES = re.compile(r"series-(\d+)-\d+")
REFERRING = ("href", "clip-path", "style")
LONG = 400  # characters: longer paths are curves, of which a tenth of a point is enough


def inline_svg(path: Path, title: str) -> tuple[str, float]:
    """The picture as an element with ids of its own by the file's name, and its width in points."""
    root = ElementTree.parse(path).getroot()
    _strip(root)
    width, styles = float(root.attrib["viewBox"].split()[2]), dict[str, str]()
    root.attrib = {"role": "img", "aria-label": title, "viewBox": root.attrib["viewBox"]}
    _rename(root, _short("p", path.stem))
    for element in root.iter():
        if "style" in element.attrib:
            style = COLOUR.sub(lambda found: f"var(--c{found[0][1:]})", element.attrib.pop("style"))
            styles[style] = _short("m", style)
            element.attrib["class"] = f"{element.attrib.get('class', '')} {styles[style]}".strip()
        for name in ("d", "x", "y", "transform"):
            if name in element.attrib:
                element.attrib[name] = _rounded(element.attrib[name])
    rules = "".join(f".{name}{{{style}}}" for style, name in styles.items())
    return f"<style>{rules}</style>{ElementTree.tostring(root, encoding='unicode')}", width


def _strip(root: ElementTree.Element) -> None:
    """Takes away namespaces, metadata, and blanks between elements."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith("}metadata"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if element.text and not element.text.strip():
            element.text = None
        if element.tail and not element.tail.strip():
            element.tail = None


def _short(kind: str, text: str) -> str:
    """A name that follows from a text."""
    return kind + hashlib.sha256(text.encode()).hexdigest()[:6]


def _rounded(value: str) -> str:
    digits = 1 if len(value) > LONG else 2
    short = NUMBER.sub(lambda found: f"{float(found[0]):.{digits}f}".rstrip("0").rstrip("."), value)
    return re.sub(r"\s*([A-Za-z(),]|-(?=\d))\s*", r"\1", short).strip()


def _rename(root: ElementTree.Element, prefix: str) -> None:
    """Ids of series become classes, those that something refers to are numbered, all others go."""
    values = [value for element in root.iter() for key, value in element.attrib.items() if key in REFERRING]
    used = {name for value in values for name in REFERENCE.findall(value)}
    numbers = itertools.count()
    names = {}
    for element in root.iter():
        name = element.attrib.pop("id", "")
        if series := SERIES.fullmatch(name):
            element.attrib["class"] = f"{element.attrib.get('class', '')} s{series[1]}".strip()
        elif name in used:
            names[name] = element.attrib["id"] = f"{prefix}-{next(numbers)}"
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            if key in REFERRING:
                element.attrib[key] = REFERENCE.sub(lambda found: "#" + names.get(found[1], found[1]), value)
