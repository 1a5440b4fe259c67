import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision import ops

from service.network.kernels import can_build_kernels, has_kernels, nms, roi_align

# Every kernel of ours, for an H200, in the precision of a head or of features.
COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from service.inference import chart_kernel, vertex_kernel
from service.network import nms_kernel, roi_align_kernel

def compile(kernel, types, **constants):
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constants)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4})
    print(kernel.__name__, len(built.asm["cubin"]))

compile(
    nms_kernel._suppress_group,
    {"boxes_ptr": "*fp32", "is_box_ptr": "*u8", "is_kept_ptr": "*u8", "max_iou": "fp32"},
    BLOCK=1024,
)
features = {name: "*bf16" for name in ("p2_ptr", "p3_ptr", "p4_ptr", "p5_ptr", "pooled_ptr")}
for ratio, is_aligned in ((2, False), (0, True)):
    compile(
        roi_align_kernel._align_bin,
        features | {"rois_ptr": "*fp32", "which_ptr": "*i32"},
        SIDE=7, RATIO=ratio, IS_ALIGNED=is_aligned, BLOCK=256,
    )
head = {"table_ptr": "*fp32", "regions_ptr": "*i64"}
segmentation = {"SIDE": 112, "COARSE": 0, "NUM_COARSE": 2, "COARSE_BLOCK": 2}
compile(
    chart_kernel._paint_pixels,
    head | {
        "iuv_ptr": "*u8", "iuv16_ptr": "*u16", "uv_ptr": "*fp32", "labels_ptr": "*u8",
        "coarse_ptr": "*u8", "mask_ptr": "*u8", "num_all": "i64",
    },
    CHANNELS=77, FINE=2, NUM_FINE=25, FINE_BLOCK=32, U=27, V=52, BLOCK=64, **segmentation,
)
compile(
    vertex_kernel._paint_tile,
    head | {
        "vertices_ptr": "*fp32", "squares_ptr": "*fp32", "colours_ptr": "*u8",
        "spans_ptr": "*i32", "coarse_map_ptr": "*u8", "mask_map_ptr": "*u8",
        "vertex_map_ptr": "*u16", "colour_map_ptr": "*u8",
    },
    CHANNELS=18, EMBEDDING=2, D=16, HEIGHT=8, WIDTH=8, BLOCK=64, **segmentation,
)
"""


def test_nothing_runs_in_kernels_of_ours_on_the_cpu() -> None:
    assert not has_kernels(torch.zeros(1))


def test_without_a_compiler_there_are_no_kernels(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    can_build_kernels.cache_clear()
    try:
        assert not can_build_kernels()
    finally:
        can_build_kernels.cache_clear()
    assert "slower" in caplog.text


def test_every_kernel_compiles_for_an_h200(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed: this torch is for CPUs alone")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    # With a cache of its own, so that it does compile.
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5


def test_neither_torchvision_s_networks_nor_pytorch_s_compiler_is_imported() -> None:
    code = (
        "import sys; from service.inference import loading; "
        "print([name for name in ('torchvision', 'torch._dynamo') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout == "[]\n"


def test_nms_is_torchvision_s() -> None:
    torch.manual_seed(0)
    corners = torch.rand(200, 2) * 50
    boxes = torch.cat((corners, corners + torch.rand(200, 2) * 30), dim=1)
    scores = torch.rand(200)
    assert torch.equal(nms(boxes, scores, 0.5), ops.nms(boxes, scores, 0.5))


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_roi_align_is_torchvision_s(sampling_ratio: int, aligned: bool) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 20, 30)
    rois = torch.tensor([[0, 1.0, 2.0, 90.0, 60.0], [1, 10.0, 3.0, 20.0, 50.0]])
    ours = roi_align(
        features, rois, 7, spatial_scale=0.25, sampling_ratio=sampling_ratio, aligned=aligned
    )
    theirs = ops.roi_align(features, rois, 7, 0.25, sampling_ratio, aligned)
    assert torch.equal(ours, theirs)
