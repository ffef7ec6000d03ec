"""The colours of pictures on a dark page: every colour of the SVG files has a twin that is seen on black."""

import functools

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

# Ink, paper, grid and greys; then the methods' colours of plots.py, lighter.
DARK = {
    "#000000": "#e7e7e4",
    "#ffffff": "#16181b",
    "#dddddd": "#33373d",
    "#555555": "#a2a7ae",
    "#0072b2": "#4ba7e0",
    "#d55e00": "#f0873a",
    "#009e73": "#2fc79d",
    "#cc79a7": "#e39cc3",
}
# Amounts run from light to dark on paper, and so from dark to light on black: places on viridis.
LIGHTEST_ON_PAPER = 0.7
LEAST_ON_BLACK, MOST_ON_BLACK = 0.38, 1.0


@functools.cache
def amounts_on_black() -> dict[str, str]:
    """Twins of all colours of amounts, as #rrggbb."""
    scale = mpl.colormaps["viridis"]
    last = int(LIGHTEST_ON_PAPER * scale.N)
    places = np.linspace(MOST_ON_BLACK, LEAST_ON_BLACK, last + 1)
    return {to_hex(scale(index)): to_hex(scale(place)) for index, place in zip(range(last + 1), places, strict=True)}


def on_black(colour: str) -> str:
    """The twin of #rrggbb on a dark page; itself where it is seen there as it is."""
    return DARK.get(colour) or amounts_on_black().get(colour, colour)
