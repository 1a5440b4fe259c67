"""What can go wrong between a client and a server: one class for each code of the contract."""

from collections.abc import Mapping


class DensePoseError(Exception):
    """The base of all of them."""


class ServerUnreachable(DensePoseError):
    """There is no connection to the server, or it broke.

    `was_sent` tells whether the server may have begun to work on the request.
    """

    def __init__(self, message: str, *, was_sent: bool) -> None:
        super().__init__(message)
        self.was_sent = was_sent


class OutOfTime(DensePoseError):
    """The call's own time is over; an earlier failure that took some of it is its `__cause__`."""


class UnreadableAnswer(DensePoseError):
    """What came is not an answer of a DensePose server, or is larger than this client takes."""


class Refused(DensePoseError):
    """The server answered with an error; of this very class where its code is not known here.

    `code` is stable, and None where something between here and the server has answered;
    `retry_after_s` is what the server asks to wait, None where it does not.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = code
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class MalformedRequest(Refused):
    """The server cannot read the body."""


class Unauthorized(Refused):
    """The key is missing or wrong."""


class Forbidden(Refused):
    """The key may not do this, or nobody may."""


class ForbiddenOrigin(Refused):
    """A page of this origin may not use the server."""


class UnknownHost(Refused):
    """The server does not go by the name in its address."""


class UnknownModel(Refused):
    """No model has this name; the detail has the closest ones."""


class NotFound(Refused):
    """There is nothing at this address: perhaps it is no DensePose server's."""


class MethodNotAllowed(Refused):
    """The address does not take this method."""


class NotAcceptable(Refused):
    """What was asked for has no form of this media type."""


class SlowUpload(Refused):
    """The image did not arrive in time."""


class BodyTooLarge(Refused):
    """The image has more bytes than the server takes."""


class ImageTooLarge(Refused):
    """The image has more pixels than the server decodes."""


class UnsupportedMediaType(Refused):
    """The server does not read a body of this type."""


class UndecodableImage(Refused):
    """The bytes are not an image."""


class InvalidParameter(Refused):
    """A parameter cannot be used."""


class UnsupportedOutput(Refused):
    """The model cannot give that map; the detail has those that can."""


class AnswerTooLarge(Refused):
    """The maps asked for have more samples than one answer may carry."""


class Overloaded(Refused):
    """The server is busy, or could not have answered in time."""


class HeadersTooLarge(Refused):
    """The headers are larger than the server takes."""


class InternalError(Refused):
    """The server has a defect; its log has the reason under `request_id`."""


class CheckpointUnavailable(Refused):
    """The server cannot have the model's file."""


class ModelLoading(Refused):
    """The model could not be loaded in time."""


class Draining(Refused):
    """The server is shutting down."""


class Unhealthy(Refused):
    """The server's device has failed."""


class DeadlineExceeded(Refused):
    """The work itself took longer than the request had."""


class OutOfMemory(Refused):
    """The image does not fit the server's device even alone."""


ERROR_OF: Mapping[str, type[Refused]] = {
    "malformed_request": MalformedRequest,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "forbidden_origin": ForbiddenOrigin,
    "unknown_host": UnknownHost,
    "unknown_model": UnknownModel,
    "not_found": NotFound,
    "method_not_allowed": MethodNotAllowed,
    "not_acceptable": NotAcceptable,
    "slow_upload": SlowUpload,
    "body_too_large": BodyTooLarge,
    "image_too_large": ImageTooLarge,
    "unsupported_media_type": UnsupportedMediaType,
    "undecodable_image": UndecodableImage,
    "invalid_parameter": InvalidParameter,
    "unsupported_output": UnsupportedOutput,
    "answer_too_large": AnswerTooLarge,
    "overloaded": Overloaded,
    "headers_too_large": HeadersTooLarge,
    "internal_error": InternalError,
    "checkpoint_unavailable": CheckpointUnavailable,
    "loading": ModelLoading,
    "draining": Draining,
    "unhealthy": Unhealthy,
    "deadline_exceeded": DeadlineExceeded,
    "out_of_memory": OutOfMemory,
}
