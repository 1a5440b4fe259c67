"""Text from outside, made fit to be shown."""


def printable(text: str) -> str:
    """The text in one line, of which nothing can act on a terminal or begin a line of a log."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
