"""Parts of messages: texts and errors on one line, counts with their nouns, and the first of many names."""

from collections.abc import Sequence

_MAX_CHARACTERS = 300  # of an error of another library


def one_line(text: str) -> str:
    """Return a text with all white space replaced by single spaces."""
    return " ".join(text.split())


def escape_controls(text: str) -> str:
    """Return a text with line breaks and other characters that cannot be printed as escapes, such as \\n."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def describe_error(error: BaseException) -> str:
    """Return an error's type and the beginning of its message on one line."""
    return one_line(f"{type(error).__name__}: {error}")[:_MAX_CHARACTERS]


def count_noun(count: int, noun: str) -> str:
    """Return a count with its noun, in the plural unless it is one: "1 run", "2 runs"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def first_names(names: Sequence[str], limit: int) -> str:
    """Return the first names, and the number of the others: "a, b and 6 more"."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
