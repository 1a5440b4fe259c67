"""What a server tells of itself: its models, the body's parts, its renders, its health."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field


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
    published: Mapping[str, float] = field(default_factory=dict)
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class Models:
    """The models that are served; `default` is taken where none is named."""

    default: str
    models: tuple[Model, ...] = ()

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
