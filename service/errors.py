"""What the service raises on purpose, in the order of a request's way; the message is for people.

The HTTP status and the stable code of each stand in `service/api/errors.py`.
"""

from typing import Literal, TypeAlias

# Words for the metrics.
RefusalReason: TypeAlias = Literal[
    "queue_full", "bytes_in_flight", "deadline", "expired", "connections", "key_limit"
]


class ServiceError(Exception):
    """The base of all of them; the message is fit to show to a client."""


class MalformedRequest(ServiceError):
    """The body cannot be read: no image in it, bad multipart, bad JSON, bad base64."""


class HeadersTooLarge(ServiceError):
    """The request line and the headers have more bytes, or the headers are more, than are read."""


class Unauthorized(ServiceError):
    """A key is missing or wrong."""


class Forbidden(ServiceError):
    """The key may not do this, or nobody may: no admin key is set."""


class ForbiddenOrigin(ServiceError):
    """A web page of another origin may not use the service."""


class UnknownHost(ServiceError):
    """The service does not go by the name that it is asked under."""


class NotAcceptable(ServiceError):
    """None of the representations that the client accepts can be given."""


class UnsupportedMediaType(ServiceError):
    """The body is of a type, or in a content encoding, that is not read here."""


class SlowUpload(ServiceError):
    """The body did not arrive in time."""


class ClientLeft(ServiceError):
    """The client closed the connection; nobody will read an answer."""


class BodyTooLarge(ServiceError):
    """The body has more bytes than are taken."""


class ImageTooLarge(ServiceError):
    """The image has more pixels than are decoded."""


class UndecodableImage(ServiceError):
    """The bytes are not an image that can be decoded."""


class InvalidParameter(ServiceError):
    """A parameter is unknown, given twice, or not a value that it can take."""


class UnsupportedOutput(ServiceError):
    """This model cannot give that map; the message says which can."""


class AnswerTooLarge(ServiceError):
    """The answer would take more bytes than one answer may."""


class Overloaded(ServiceError):
    """The queue is full, or the deadline cannot be met: healthy but busy.

    `reason` is a word for the metrics; `retry_after_s` an estimate of when there will be room.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: RefusalReason = "queue_full",
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class ModelLoading(ServiceError):
    """The model could not be ready by the deadline."""


class Draining(ServiceError):
    """The service is shutting down and takes no new requests."""


class Unhealthy(ServiceError):
    """The device side has stopped and cannot answer."""


class DeviceFailed(Unhealthy):
    """The device can only be used again by another process; `reason` is for operators."""

    def __init__(self, message: str, *, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class DeadlineExceeded(ServiceError):
    """The work itself overran the deadline."""


class OutOfMemory(ServiceError):
    """This one image does not fit the device even alone."""


class DeviceUnavailable(ServiceError):
    """The device that the operator chose is not there."""


class InvalidSetting(ServiceError):
    """An environment variable has a value that the service cannot use."""
