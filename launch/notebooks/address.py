"""Puts this repository's address where notebooks are fetched from: python launch/notebooks/address.py [--check]

The address stands here alone. Run it after changing it: every notebook's first cell, and the badges that open them in
Colab, are written anew. --check changes nothing and fails where one of them says something else.
"""

import re
import sys
from pathlib import Path

REPOSITORY = "https://github.com/your--account/finetune-scaling"  # no account can be called so: put yours here
BRANCH = "main"

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent.relative_to(ROOT)

_CLONED = re.compile(r'(?<=REPOSITORY = \\")[^"\\]+')  # in a notebook, which is JSON
_OPENED = re.compile(rf"(?<=https://colab\.research\.google\.com/github/)[^)\s]+?/blob/[^)\s]+?(?=/{FOLDER}/)")


def pages() -> list[Path]:
    """The files that tell the address."""
    return [ROOT / "README.md", *sorted((ROOT / FOLDER).glob("*.ipynb"))]


def addressed(text: str) -> str:
    """A page with the address put in."""
    owner_and_name = REPOSITORY.removeprefix("https://github.com/")
    return _OPENED.sub(f"{owner_and_name}/blob/{BRANCH}", _CLONED.sub(REPOSITORY, text))


def main(arguments: list[str]) -> int:
    """Writes the address everywhere, or with --check tells where it is another; returns the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python launch/notebooks/address.py [--check]", file=sys.stderr)
        return 2
    changed = False
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if addressed(text) == text:
            continue
        changed = True
        if arguments:
            print(f"{page.relative_to(ROOT)}: tells another address than address.py", file=sys.stderr)
        else:
            page.write_text(addressed(text), encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: {REPOSITORY}")
    return int(changed and bool(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
