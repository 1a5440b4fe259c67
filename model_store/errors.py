"""What the model store raises on purpose."""


class ModelStoreError(Exception):
    """The base of all of them; the message is fit to show to a client."""


class UnknownModel(ModelStoreError):
    """No model has this id or alias; the message names the closest ids."""


class CheckpointUnavailable(ModelStoreError):
    """The model's file is not on disk and could not be had; the message says what to do."""


class CheckpointRejected(ModelStoreError):
    """The file is not a checkpoint of this model: damaged, hostile, or of another architecture."""


class ModelNotAdded(ModelStoreError):
    """An own model's name is taken or not a name, or its settings make no sense."""
