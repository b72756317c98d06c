"""Losses on the make-believe device: the host never waits."""

from __future__ import annotations

import torch

from genfusion_ns.gaussians import losses


def test_the_disparity_loss_reads_nothing_back(cuda):
    random = torch.Generator().manual_seed(0)
    depth, target = (1 + torch.rand(2, 30, 40, 1, generator=random)).to("cuda")
    depth[:5], target[:, :7] = 0.0, 0.0
    depth.requires_grad_()
    with cuda.record():
        losses.ssi_disparity(depth, target).backward()
    assert not cuda.syncs, cuda.table()
    assert sum(cuda.launches.values()) < 300  # d7f7d80: 523, and 19 waits
    host = depth.detach().cpu().requires_grad_()
    losses.ssi_disparity(host, target.cpu()).backward()
    assert depth.grad is not None and host.grad is not None
    torch.testing.assert_close(depth.grad.cpu(), host.grad)
