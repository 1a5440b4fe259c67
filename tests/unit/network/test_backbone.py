import torch

from service.network.backbone import Bottleneck, FrozenBatchNorm2d, fold_batch_norms


def test_a_folded_block_computes_what_it_did_before() -> None:
    torch.manual_seed(0)
    block = Bottleneck(8, 4, 16, stride=2)
    for norm in block.modules():
        if isinstance(norm, FrozenBatchNorm2d):
            for buffer in norm.buffers():
                buffer.uniform_(0.5, 1.5)
    x = torch.randn(2, 8, 12, 12)
    with torch.inference_mode():
        before = block(x)
    fold_batch_norms(block)
    with torch.inference_mode():
        after = block(x)
    assert not [module for module in block.modules() if isinstance(module, FrozenBatchNorm2d)]
    torch.testing.assert_close(after, before)
