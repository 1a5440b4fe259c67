import numpy as np
import pytest

from model_store.caffe2_names import convert_blobs
from model_store.errors import CheckpointRejected

NAMES = {
    "conv1_w": "backbone.bottom_up.stem.conv1.weight",
    "res_conv1_bn_s": "backbone.bottom_up.stem.conv1.norm.weight",
    "res_conv1_bn_b": "backbone.bottom_up.stem.conv1.norm.bias",
    "res2_0_branch1_w": "backbone.bottom_up.res2.0.shortcut.weight",
    "res2_0_branch1_bn_s": "backbone.bottom_up.res2.0.shortcut.norm.weight",
    "res3_1_branch2a_w": "backbone.bottom_up.res3.1.conv1.weight",
    "res4_22_branch2b_bn_b": "backbone.bottom_up.res4.22.conv2.norm.bias",
    "res5_2_branch2c_w": "backbone.bottom_up.res5.2.conv3.weight",
    "fpn_inner_res5_2_sum_w": "backbone.fpn_lateral5.weight",
    "fpn_inner_res4_22_sum_lateral_b": "backbone.fpn_lateral4.bias",
    "fpn_res2_2_sum_b": "backbone.fpn_output2.bias",
    "conv_rpn_fpn2_w": "proposal_generator.rpn_head.conv.weight",
    "rpn_cls_logits_fpn2_b": "proposal_generator.rpn_head.objectness_logits.bias",
    "rpn_bbox_pred_fpn2_w": "proposal_generator.rpn_head.anchor_deltas.weight",
    "fc6_w": "roi_heads.box_head.fc1.weight",
    "fc7_b": "roi_heads.box_head.fc2.bias",
    "cls_score_w": "roi_heads.box_predictor.cls_score.weight",
    "bbox_pred_b": "roi_heads.box_predictor.bbox_pred.bias",
    "body_conv_fcn8_w": "roi_heads.densepose_head.body_conv_fcn8.weight",
    "AnnIndex_lowres_w": "roi_heads.densepose_predictor.ann_index_lowres.weight",
    "Index_UV_lowres_b": "roi_heads.densepose_predictor.index_uv_lowres.bias",
    "U_lowres_w": "roi_heads.densepose_predictor.u_lowres.weight",
    "V_lowres_b": "roi_heads.densepose_predictor.v_lowres.bias",
}


def rows(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize(("blob", "name"), NAMES.items())
def test_a_blob_gets_detectron2_s_name(blob: str, name: str):
    assert name in convert_blobs({blob: rows(0, 0, 0, 0, 1)})


@pytest.mark.parametrize(
    "blob",
    [
        "conv1_b",
        "fc1000_w",
        "AnnIndex_w",
        "Index_UV_b",
        "U_estimated_w",
        "V_estimated_b",
        "lr",
        "weight_order",
        "res6_0_branch2a_w",
        "rpn_cls_logits_fpn3_w",
        "my_fc6_w",
        "fc6_weight",
    ],
)
def test_a_blob_that_no_rule_names_keeps_its_name(blob: str):
    assert list(convert_blobs({blob: rows(1)})) == [blob]


def test_the_background_s_score_moves_from_the_first_row_to_the_last():
    converted = convert_blobs({"cls_score_w": rows(9, 1, 2), "cls_score_b": rows(8, 3)[:, 0]})
    assert converted["roi_heads.box_predictor.cls_score.weight"].tolist() == [[1], [2], [9]]
    assert converted["roi_heads.box_predictor.cls_score.bias"].tolist() == [3, 8]


def test_the_background_s_box_is_dropped():
    converted = convert_blobs({"bbox_pred_w": rows(9, 9, 9, 9, 1, 2, 3, 4)})
    assert converted["roi_heads.box_predictor.bbox_pred.weight"].tolist() == [[1], [2], [3], [4]]


def test_the_optimizer_s_momentum_is_dropped():
    assert list(convert_blobs({"lr": rows(1), "conv1_w_momentum": rows(1)})) == ["lr"]


def test_a_batch_norm_without_mean_and_variance_gets_those_that_change_nothing():
    converted = convert_blobs({"res2_0_branch1_bn_s": rows(5, 6)[:, 0]})
    layer = "backbone.bottom_up.res2.0.shortcut.norm."
    assert set(converted) == {layer + "weight", layer + "running_mean", layer + "running_var"}
    np.testing.assert_array_equal(converted[layer + "running_mean"], np.zeros(2, np.float32))
    np.testing.assert_array_equal(converted[layer + "running_var"], np.ones(2, np.float32))


def test_two_blobs_for_one_parameter_are_refused():
    with pytest.raises(CheckpointRejected, match=r"fpn_lateral2\.weight"):
        convert_blobs(
            {"fpn_inner_res2_2_sum_w": rows(1), "fpn_inner_res2_2_sum_lateral_w": rows(2)}
        )


def test_a_blob_that_is_a_single_number_is_left_to_be_found_misshapen():
    blobs = {name: np.zeros((), np.float32) for name in ("cls_score_w", "bbox_pred_b")}
    assert all(array.shape == () for array in convert_blobs(blobs).values())
