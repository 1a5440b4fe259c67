"""Which models exist: one row of `catalogue.toml` each."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal
from urllib.parse import urlsplit

from model_store.errors import UnknownModel

# detectron2/projects/DensePose/doc/DENSEPOSE_IUV.md
ZOO_URL = "https://dl.fbaipublicfiles.com/densepose/"


_CONFIDENCE_FIELDS_OF_UV: Mapping[str | None, tuple[str, ...]] = {
    None: (),
    "iid_iso": ("sigma_2",),
    "indep_aniso": ("sigma_2", "kappa_u", "kappa_v"),
}


@dataclass(frozen=True, slots=True)
class Pooler:
    """How RoIAlign reads a box: the side of its output, samples per bin and axis, half-pixel shift.

    A sampling ratio of 0 adapts to the box: ceil(box side / resolution) samples.
    """

    resolution: int
    sampling_ratio: int = 2
    aligned: bool = False


@dataclass(frozen=True, slots=True)
class Architecture:
    """The fields by which the models differ; the defaults are those of most rows."""

    backbone_depth: Literal[50, 101] = 50
    densepose_head: Literal["v1convx", "deeplab"] = "v1convx"
    predictor: Literal["chart", "cse"] = "chart"
    # Background and body, or background and 14 coarse parts (the legacy and Caffe2 rows).
    coarse_channels: Literal[2, 15] = 2
    # Sums p2..p5 at stride 4 before pooling; without it the level is chosen by the box's size.
    decoder: bool = True
    densepose_pooler: Pooler = Pooler(resolution=28)
    # The bootstrapped rows are aligned with sampling ratio 0.
    box_pooler: Pooler = Pooler(resolution=7)
    uv_confidence: Literal["iid_iso", "indep_aniso"] | None = None
    segm_confidence: bool = False
    num_classes: int = 1
    # A factor on every channel count.
    width: float = 1.0
    # Continuous surface embeddings only: dimensions, vertices per mesh, and the mesh of a class.
    embed_size: int = 16
    vertex_feature_dim: int = 256
    meshes: Mapping[str, int] = field(default_factory=dict)
    class_to_mesh: Mapping[int, str] = field(default_factory=dict)
    # The raw confidence maps that the network gives, in the order of the API.
    confidence_fields: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        of_segm = ("fine_segm_confidence", "coarse_segm_confidence") if self.segm_confidence else ()
        fields = _CONFIDENCE_FIELDS_OF_UV[self.uv_confidence] + of_segm
        object.__setattr__(self, "confidence_fields", fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """One model: what it is called, how it is built, and where its checkpoint comes from.

    A checkpoint with a `url` is fetched, one with a `file` comes with this package, and one with
    neither was added by the operator. `published` holds what its authors measured, by metric.
    """

    id: str
    group: str
    architecture: Architecture
    aliases: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ("person",)
    licence: str | None = None
    url: str | None = None
    file: str | None = None
    # The first digits of the file's MD5, as the zoo's file names carry them.
    md5_prefix: str | None = None
    sha256: str | None = None
    num_bytes: int | None = None
    # The zoo was evaluated at this size.
    short_side: int = 800
    long_side: int = 1333
    published: Mapping[str, float] = field(default_factory=dict)
    lr_schedule: str | None = None
    # Said with every answer.
    notice: str | None = None
    # What its pixels get: a chart with U and V, or a vertex of a mesh.
    kind: Literal["chart", "cse"] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", self.architecture.predictor)

    @property
    def source(self) -> str | None:
        """The `url` without the password that a mirror's address may hold."""
        if self.url is None:
            return None
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def expectation(self) -> str:
        """What a file is held against, besides the first one that was seen here."""
        if self.sha256 is not None:
            return f"SHA-256 {self.sha256}"
        if self.md5_prefix is not None:
            return f"MD5 {self.md5_prefix}... (24 bits: damage, not malice)"
        return "nothing: neither size nor digest is known"


def load_catalogue(zoo_url: str = ZOO_URL) -> dict[str, ModelCard]:
    """The cards of every model that this package knows, by id; `zoo_url` may name a mirror."""
    text = resources.files("model_store").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return parse_catalogue(text, zoo_url)


def parse_catalogue(text: str, zoo_url: str = ZOO_URL) -> dict[str, ModelCard]:
    """The cards that a text in the form of `catalogue.toml` describes, by id.

    Raises:
        TypeError: a key is unknown or missing.
        ValueError: it is not TOML, or two rows share an id or an alias.
    """
    document = tomllib.loads(text)
    rows = [_read_card(row, zoo_url) for row in document.pop("model")]
    if document:
        raise TypeError(f"unknown keys: {', '.join(document)}")
    cards = {card.id: card for card in rows}
    if len(index_names(cards)) < sum(1 + len(card.aliases) for card in rows):
        raise ValueError("two rows share an id or an alias")
    return cards


def index_names(cards: Mapping[str, ModelCard]) -> dict[str, ModelCard]:
    """The cards by each of their names, ids and aliases, in lower case."""
    return {name.lower(): card for card in cards.values() for name in (card.id, *card.aliases)}


def find_model(cards: Mapping[str, ModelCard], name: str) -> ModelCard:
    """The card with this id, or with this id or alias without regard to case.

    Raises:
        UnknownModel: there is none.
    """
    if card := cards.get(name):
        return card
    index = index_names(cards)
    if card := index.get(name.lower()):
        return card
    shown = name[:100]
    close = difflib.get_close_matches(shown.lower(), index, n=5, cutoff=0.4)
    ids = list(dict.fromkeys(index[match].id for match in close))[:3]
    hint = f"; the closest are {', '.join(ids)}" if ids else ""
    raise UnknownModel(f"there is no model {shown!r}{hint}")


def _read_card(row: dict[str, Any], zoo_url: str) -> ModelCard:
    if path := row.pop("path", None):
        row["url"] = zoo_url.rstrip("/") + "/" + path
        *folders, file = path.rsplit("/", 2)
        # A file of DensePose 1 lies in no folder, and is named for its configuration.
        row["aliases"] = tuple(folders) or (file.removesuffix(".pkl"),)
        if folders:
            row["md5_prefix"] = file.removeprefix("model_final_").removesuffix(".pkl")
    row["architecture"] = _read_architecture(row.get("architecture", {}))
    if "class_names" in row:
        row["class_names"] = tuple(row["class_names"])
    return ModelCard(**row)


def _read_architecture(table: dict[str, Any]) -> Architecture:
    for pooler in ("densepose_pooler", "box_pooler"):
        if pooler in table:
            table[pooler] = Pooler(**table[pooler])
    if "meshes" in table:
        table["meshes"] = {mesh: int(mesh.rpartition("_")[2]) for mesh in table["meshes"]}
    if "class_to_mesh" in table:
        table["class_to_mesh"] = dict(enumerate(table["class_to_mesh"]))
    return Architecture(**table)
