"""Write this repository's address into the notebooks: python launch/notebooks/address.py [--check]

REPOSITORY and BRANCH are the only place where the address is configured. Run this script after changing them: it
writes the address into the first code cell of every notebook and, under its title, a badge that opens it in Colab.
Without an address there is no badge. --check writes nothing and exits with 1 if a notebook has another address.
"""

import re
import sys
from pathlib import Path

REPOSITORY = ""  # https://github.com/ACCOUNT/NAME
BRANCH = "main"

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent.relative_to(ROOT)

_COLAB = "https://colab.research.google.com"
_CLONED = re.compile(r'(?<=REPOSITORY = \\")[^"\\]*')  # in a notebook, which is JSON
_BADGE = re.compile(rf' *"\[!\[Open in Colab\]\({_COLAB}[^"]*",\n *"\\n",\n')  # with the empty line after it
_TITLE = re.compile(r'( *)"# [^"]*",\n *"\\n",\n')


def notebooks() -> list[Path]:
    """Return the files that contain the address."""
    return sorted((ROOT / FOLDER).glob("*.ipynb"))


def with_address(text: str, name: str) -> str:
    """Return the text of the notebook `name` with the configured address, and with a badge if there is one."""
    text = _BADGE.sub("", _CLONED.sub(REPOSITORY, text))
    if not REPOSITORY:
        return text
    opened = f"{REPOSITORY.removeprefix('https://github.com/')}/blob/{BRANCH}/{FOLDER}/{name}"
    badge = f"[![Open in Colab]({_COLAB}/assets/colab-badge.svg)]({_COLAB}/github/{opened})"
    return _TITLE.sub(rf'\g<0>\1"{badge}\\n",\n\1"\\n",\n', text, count=1)


def main(arguments: list[str]) -> int:
    """Write the address into all notebooks, or check them with --check; return the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python launch/notebooks/address.py [--check]", file=sys.stderr)
        return 2
    changed = False
    for page in notebooks():
        text = page.read_text(encoding="utf-8")
        updated = with_address(text, page.name)
        if updated == text:
            continue
        changed = True
        if arguments:
            print(f"{page.relative_to(ROOT)}: contains another address than address.py", file=sys.stderr)
        else:
            page.write_text(updated, encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: {REPOSITORY or 'no address'}")
    return int(changed and bool(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
