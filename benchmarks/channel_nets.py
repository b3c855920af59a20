"""The net of `benchmarks.channel_accuracy`, in a file of its own so that two environments can unpickle it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparsify_fx.zoo.models.resnet_cifar import BasicBlock, CifarResNet


class ProjectedBlock(BasicBlock):
    """A block whose shortcut is a strided 1x1 convolution and a batch norm, option B of He et al."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__(channels, out, stride)
        self.projection = nn.Sequential(
            nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
        )
        nn.init.kaiming_normal_(
            self.projection[0].weight, mode="fan_out", nonlinearity="relu"
        )

    def shortcut(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, out, H/stride, W/stride]."""
        found: Tensor = self.projection(x)
        return found


def resnet20(seed: int) -> CifarResNet:
    """ResNet-20 for ten classes, whose two halvings have projections: channels can go everywhere."""
    torch.manual_seed(seed)
    model = CifarResNet(3, 3, 10)
    for stage, channels in ((model.layer2, 16), (model.layer3, 32)):
        block = ProjectedBlock(channels, 2 * channels, 2)
        for conv in (block.conv1, block.conv2):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        stage[0] = block
    return model
