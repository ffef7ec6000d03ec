"""The rows of docs/public_models.md that say what is read and what is refused."""

import re
from pathlib import Path

_PAGE = Path(__file__).parents[1] / "docs" / "public_models.md"


def documented_rows(heading: str) -> dict[str, str]:
    """Return the rows of the table below a heading: the first column, and the first word of the second one."""
    section = _PAGE.read_text().split(f"\n### {heading}\n")[1].partition("\n#")[0]
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in section.splitlines() if line.startswith("| ")]
    return {row[0]: re.match(r"\w+", row[1])[0] for row in rows[1:]}
