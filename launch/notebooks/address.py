"""Write this repository's address into the notebooks: python launch/notebooks/address.py [--check]

REPOSITORY and BRANCH are the only place where the address is configured. Run this script after changing them: it
rewrites the first cell of every notebook and the badge that opens it in Colab. --check writes nothing and exits with 1
if a notebook has another address.
"""

import re
import sys
from pathlib import Path

REPOSITORY = "https://github.com/your--account/finetune-scaling"  # placeholder: replace it with your account
BRANCH = "main"

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent.relative_to(ROOT)

_CLONED = re.compile(r'(?<=REPOSITORY = \\")[^"\\]+')  # in a notebook, which is JSON
_OPENED = re.compile(rf"(?<=https://colab\.research\.google\.com/github/)[^)\s]+?/blob/[^)\s]+?(?=/{FOLDER}/)")


def notebooks() -> list[Path]:
    """Return the files that contain the address."""
    return sorted((ROOT / FOLDER).glob("*.ipynb"))


def with_address(text: str) -> str:
    """Return a notebook's text with the configured address."""
    owner_and_name = REPOSITORY.removeprefix("https://github.com/")
    return _OPENED.sub(f"{owner_and_name}/blob/{BRANCH}", _CLONED.sub(REPOSITORY, text))


def main(arguments: list[str]) -> int:
    """Write the address into all notebooks, or check them with --check; return the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python launch/notebooks/address.py [--check]", file=sys.stderr)
        return 2
    changed = False
    for page in notebooks():
        text = page.read_text(encoding="utf-8")
        if with_address(text) == text:
            continue
        changed = True
        if arguments:
            print(f"{page.relative_to(ROOT)}: contains another address than address.py", file=sys.stderr)
        else:
            page.write_text(with_address(text), encoding="utf-8")
            print(f"{page.relative_to(ROOT)}: {REPOSITORY}")
    return int(changed and bool(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
