import hashlib
import re
import subprocess
import sys
from collections import Counter
from importlib import resources
from typing import get_args, get_type_hints

import pytest

from model_store.catalogue import (
    ZOO_URL,
    Architecture,
    ModelCard,
    Pooler,
    find_model,
    load_catalogue,
    parse_catalogue,
)
from model_store.errors import UnknownModel

CARDS = load_catalogue()
ZOO = [card for card in CARDS.values() if card.url]


def test_the_catalogue_is_the_zoo_s_43_checkpoints_and_the_demo():
    assert Counter(card.group for card in CARDS.values()) == {
        "demo": 1,
        "legacy": 2,
        "improved": 2,
        "deeplab": 2,
        "uv_confidence": 8,
        "mask_confidence": 8,
        "bootstrap": 5,
        "cse_hard": 4,
        "cse_soft": 4,
        "cse_animals": 6,
        "caffe2": 2,
    }
    assert Counter(card.kind for card in ZOO) == {"chart": 29, "cse": 14}


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.id)
def test_every_field_holds_one_of_the_values_that_its_type_lists(card: ModelCard):
    hints = get_type_hints(Architecture)
    for name in ("backbone_depth", "densepose_head", "predictor", "coarse_channels"):
        assert getattr(card.architecture, name) in get_args(hints[name])
    assert card.architecture.uv_confidence in (None, "iid_iso", "indep_aniso")


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.id)
def test_every_class_has_a_name_and_with_embeddings_a_mesh(card: ModelCard):
    architecture = card.architecture
    assert len(card.class_names) == architecture.num_classes
    if card.kind == "cse":
        assert list(architecture.class_to_mesh) == list(range(architecture.num_classes))
        assert set(architecture.class_to_mesh.values()) <= set(architecture.meshes)
    else:
        assert not architecture.meshes


@pytest.mark.parametrize("card", CARDS.values(), ids=lambda card: card.id)
def test_every_id_can_be_the_name_of_a_folder(card: ModelCard):
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", card.id)


@pytest.mark.parametrize("card", ZOO, ids=lambda card: card.id)
def test_every_zoo_row_names_its_file_and_the_beginning_of_its_hash(card: ModelCard):
    file = card.url.rpartition("/")[2]
    if card.group == "caffe2":
        assert card.md5_prefix is None
        assert card.aliases == (file.removesuffix(".pkl"),)
    else:
        assert re.fullmatch(r"[0-9a-f]{6}", card.md5_prefix)
        assert file == f"model_final_{card.md5_prefix}.pkl"
        assert card.url == f"{ZOO_URL}{card.aliases[0]}/{card.aliases[1]}/{file}"
    assert (card.short_side, card.long_side) == (800, 1333)
    assert card.file is None


@pytest.mark.parametrize(
    "name",
    ["R_50_FPN_s1x", "densepose_rcnn_R_50_FPN_s1x", "165712039", "DENSEPOSE_rcnn_r_50_fpn_S1X"],
)
def test_a_model_is_found_by_id_and_alias_without_regard_to_case(name: str):
    assert find_model(CARDS, name).id == "R_50_FPN_s1x"


def test_a_name_that_two_kinds_share_is_the_chart_model_s_and_has_a_prefix_for_the_other():
    for name in ("R_50_FPN", "R_101_FPN", "R_50_FPN_DL", "R_101_FPN_DL"):
        assert find_model(CARDS, f"densepose_rcnn_{name}_s1x").id == f"{name}_s1x"
        assert find_model(CARDS, f"cse/densepose_rcnn_{name}_s1x").id == f"cse_{name}_s1x"


def test_an_unknown_name_is_answered_with_the_closest_ids():
    with pytest.raises(UnknownModel, match=r"'R_50_FPN_s2x'.*closest are R_50_FPN_s1x, "):
        find_model(CARDS, "R_50_FPN_s2x")


def test_an_unknown_name_is_not_repeated_at_length():
    with pytest.raises(UnknownModel) as error:
        find_model(CARDS, "\x1b" * 10_000)
    assert len(str(error.value)) < 500
    assert "\x1b" not in str(error.value)


def test_the_rows_whose_fields_are_easily_confused_are_right():
    assert CARDS["R_50_FPN_s1x"].architecture == Architecture()
    assert CARDS["R_101_FPN_s1x_legacy"].architecture == Architecture(
        backbone_depth=101,
        coarse_channels=15,
        decoder=False,
        densepose_pooler=Pooler(resolution=14, sampling_ratio=2, aligned=False),
    )
    for card in ZOO:
        is_bootstrapped = card.group == "bootstrap"
        assert card.architecture.box_pooler == Pooler(
            resolution=7, sampling_ratio=0 if is_bootstrapped else 2, aligned=is_bootstrapped
        )
        licence = {"cse": None, "caf": "CC BY-NC 4.0"}.get(card.group[:3], "CC BY-SA 3.0")
        assert card.licence == licence


@pytest.mark.parametrize(
    ("id_", "fields"),
    [
        ("R_50_FPN_s1x", ()),
        ("R_50_FPN_WC1_s1x", ("sigma_2",)),
        ("R_50_FPN_WC2_s1x", ("sigma_2", "kappa_u", "kappa_v")),
        ("R_50_FPN_WC1M_s1x", ("sigma_2", "fine_segm_confidence", "coarse_segm_confidence")),
        (
            "R_50_FPN_WC2M_s1x",
            ("sigma_2", "kappa_u", "kappa_v", "fine_segm_confidence", "coarse_segm_confidence"),
        ),
    ],
)
def test_a_model_s_confidence_fields_are_those_of_its_name(id_: str, fields: tuple[str, ...]):
    assert CARDS[id_].architecture.confidence_fields == fields


def test_a_mesh_has_as_many_vertices_as_its_name_says():
    animals = CARDS["cse_R_50_FPN_soft_animals_I0_finetune_m2m_16k"].architecture
    assert animals.meshes["smpl_27554"] == 27554
    assert animals.meshes["cat_7466"] == 7466
    assert animals.class_to_mesh[2] == "cat_7466"


def test_a_mirror_takes_the_zoo_s_place_in_every_address():
    for mirror in ("https://mirror.example/zoo", "https://mirror.example/zoo/"):
        for card, original in zip(load_catalogue(mirror).values(), CARDS.values(), strict=True):
            if original.url:
                path = original.url.removeprefix(ZOO_URL)
                assert card.url == f"https://mirror.example/zoo/{path}"


def test_the_packaged_demo_is_the_file_that_its_row_describes():
    demo = CARDS["demo"]
    content = resources.files("model_store").joinpath(demo.file).read_bytes()
    assert len(content) == demo.num_bytes
    assert hashlib.sha256(content).hexdigest() == demo.sha256
    assert demo.architecture == Architecture(width=0.25)
    assert (demo.short_side, demo.long_side) == (320, 533)
    assert "no substitute" in demo.notice


@pytest.mark.parametrize(
    "row",
    [
        'colour = "red"',
        'architecture.colour = "red"',
        "architecture.box_pooler = { resolution = 7, colour = 1 }",
    ],
)
def test_an_unknown_key_is_an_error(row: str):
    with pytest.raises(TypeError, match="colour"):
        parse_catalogue(f'[[model]]\nid = "a"\ngroup = "g"\n{row}\n')


def test_an_unknown_table_is_an_error():
    with pytest.raises(TypeError, match="modle"):
        parse_catalogue('[[model]]\nid = "a"\ngroup = "g"\n[[modle]]\nid = "b"\n')


def test_two_rows_of_one_name_are_an_error():
    rows = '[[model]]\nid = "a"\ngroup = "g"\n[[model]]\nid = "A"\ngroup = "g"\n'
    with pytest.raises(ValueError, match="share"):
        parse_catalogue(rows)


def test_the_catalogue_and_the_store_are_had_without_torch():
    code = "import sys, model_store.store, model_store.checkpoint; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
