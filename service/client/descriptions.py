"""What a server tells of itself: its models, the body's parts, its renders, its health."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from service.client.errors import Refused
from service.client.fields import Fields, parse_fields

UNAVAILABLE = 503


@dataclass(frozen=True, slots=True)
class Model:
    """One model; bytes are None as long as they are not known."""

    id: str
    aliases: tuple[str, ...]
    kind: str
    outputs: tuple[str, ...]
    classes: tuple[str, ...]
    meshes: tuple[str, ...]
    state: str
    bytes_on_disk: int | None
    bytes_on_host: int | None
    bytes_on_device: int | None
    licence: str | None
    source: str | None
    published: Mapping[str, float]
    notice: str | None


@dataclass(frozen=True, slots=True)
class Models:
    """The models that are served; `default` is taken where none is named."""

    default: str
    models: tuple[Model, ...]

    def __iter__(self) -> Iterator[Model]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)

    def __getitem__(self, name: str) -> Model:
        """A model by its id or an alias, without regard to case; else a `KeyError`."""
        wanted = name.casefold()
        for model in self.models:
            if wanted in {known.casefold() for known in (model.id, *model.aliases)}:
                return model
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Part:
    """One of the body's 24 charts; names and sides are the person's own."""

    number: int
    name: str
    side: str | None
    mirror: int
    coarse: int
    coarse_name: str
    limb: str
    colours: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that reads a render, and what it asks of the model itself; None: not known."""

    name: str
    min_score: float | None
    max_instances: int | None
    people: str


@dataclass(frozen=True, slots=True)
class Render:
    """A picture or file for other tools; with a tool's values it equals the tool's own picture.

    `people`, `min_score` and `max_instances` are those of the first of `tools`.
    """

    name: str
    description: str
    tool: str
    source: str
    media_type: str
    channels: tuple[str, ...]
    kinds: tuple[str, ...]
    palette: str | None
    alpha: float | None
    background: str | None
    people: str
    min_score: float | None
    max_instances: int | None = None
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """Whether all is well, and in what state the server is, or why not."""

    is_well: bool
    reason: str


def read_model(content: bytes) -> Model:
    """A model's description, or an `UnreadableAnswer`."""
    return _model(parse_fields(content))


def read_models(content: bytes) -> Models:
    """The list of models, or an `UnreadableAnswer`."""
    fields = parse_fields(content)
    return Models(fields.text("default"), tuple(_model(one) for one in fields.objects("models")))


def read_parts(content: bytes) -> tuple[Part, ...]:
    """The list of parts, or an `UnreadableAnswer`."""
    return tuple(
        Part(
            number=fields.integer("number"),
            name=fields.text("name"),
            side=fields.text_or_none("side"),
            mirror=fields.integer("mirror"),
            coarse=fields.integer("coarse"),
            coarse_name=fields.text("coarse_name"),
            limb=fields.text("limb"),
            colours=fields.texts_by_name("colours"),
        )
        for fields in parse_fields(content).objects("parts")
    )


def read_renders(content: bytes) -> tuple[Render, ...]:
    """The list of renders, or an `UnreadableAnswer`."""
    return tuple(
        Render(
            name=fields.text("name"),
            description=fields.text("description"),
            tool=fields.text("tool"),
            source=fields.text("source"),
            media_type=fields.text("media_type"),
            channels=fields.texts("channels"),
            kinds=fields.texts("kinds"),
            palette=fields.text_or_none("palette"),
            alpha=fields.number_or_none("alpha"),
            background=fields.text_or_none("background"),
            people=fields.text("people"),
            min_score=fields.number_or_none("min_score"),
            max_instances=fields.integer_or_none("max_instances"),
            tools=tuple(_tool(tool) for tool in fields.objects("tools")),
        )
        for fields in parse_fields(content).objects("renders")
    )


def read_health(content: bytes) -> Health:
    """A good state, or an `UnreadableAnswer`."""
    fields = parse_fields(content)
    return Health(fields.text("status") == "ok", fields.text("reason"))


def illness_in(error: Refused) -> Health:
    """The bad state that an answer with an error told; or the error again."""
    if error.status != UNAVAILABLE:
        raise error
    return Health(is_well=False, reason=error.detail)


def _tool(fields: Fields) -> Tool:
    return Tool(
        fields.text("name"),
        fields.number_or_none("min_score"),
        fields.integer_or_none("max_instances"),
        fields.text("people"),
    )


def _model(fields: Fields) -> Model:
    return Model(
        id=fields.text("id"),
        aliases=fields.texts("aliases"),
        kind=fields.text("kind"),
        outputs=fields.texts("outputs"),
        classes=fields.texts("classes"),
        meshes=fields.texts("meshes"),
        state=fields.text("state"),
        bytes_on_disk=fields.integer_or_none("bytes_on_disk"),
        bytes_on_host=fields.integer_or_none("bytes_on_host"),
        bytes_on_device=fields.integer_or_none("bytes_on_device"),
        licence=fields.text_or_none("licence"),
        source=fields.text_or_none("source"),
        published=fields.numbers_by_name("published"),
        notice=fields.text_or_none("notice"),
    )
