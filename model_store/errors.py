"""What the model store raises on purpose."""


def printable(text: str) -> str:
    """The text in one line, of which nothing can act on a terminal or begin a line of a log."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class ModelStoreError(Exception):
    """The base of all of them; the message is fit to show to a client, and on a terminal."""

    def __init__(self, message: str) -> None:
        # Servers, files and their names say what they like.
        super().__init__(printable(message))


class UnknownModel(ModelStoreError):
    """No model has this id or alias; the message names the closest ids."""


class CheckpointUnavailable(ModelStoreError):
    """The model's file is not on disk and could not be had; the message says what to do."""


class CheckpointRejected(ModelStoreError):
    """The file is not a checkpoint of this model: damaged, hostile, or of another architecture."""


class ModelNotAdded(ModelStoreError):
    """An own model's name is taken or not a name, or its sides make no sense."""
