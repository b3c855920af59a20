"""Residual nets for small images: ResNet-20 of He et al., and ResNet-18 and -50 with a stem for small images.

Source: [He 2016] (section 4.2 for ResNet-20).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sparsify_fx.zoo.models.spec import MODELS, ModelSpec

# The two halvings of ResNet-20 leave one pixel.
_SMALLEST = 4


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to their input: [N, channels, H, W] -> [N, out, H/stride, W/stride].

    The shortcut is option A of He et al.: strided slicing and zero channels, no parameters. They use it in all their
    CIFAR nets, so the number of weights equals theirs, and no mask can cut the path past the block.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.stride, self.new_channels = stride, out - channels

    def forward(self, x: Tensor) -> Tensor:
        """relu(f(x) + shortcut(x)), f of two convolutions: [N, channels, H, W] -> [N, out, H/stride, W/stride]."""
        # Without a relu before the sum, or the block could add to its input only and never take away.
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))

    def shortcut(self, x: Tensor) -> Tensor:
        """Option A: every stride-th pixel, half of the new zero channels before and half after."""
        if self.stride == 1 and self.new_channels == 0:
            return x
        before = self.new_channels // 2
        strided = x[:, :, :: self.stride, :: self.stride]
        return F.pad(strided, (0, 0, 0, 0, before, self.new_channels - before))


class CifarResNet(nn.Module):
    """The CIFAR net of He et al. with 6n+2 layers: three stages of n blocks and 16, 32, 64 channels.

    [N, in_channels, H, W] -> [N, num_classes]; He initialization (normal, fan out).
    """

    def __init__(self, blocks: int, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, stride=1)
        self.layer2 = _stage(blocks, 16, 32, stride=2)
        self.layer3 = _stage(blocks, 32, 64, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu"
                )

    def forward(self, x: Tensor) -> Tensor:
        """The logits: [N, in_channels, H, W] -> [N, num_classes], not normalized."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def _stage(blocks: int, channels: int, out: int, stride: int) -> nn.Sequential:
    """Blocks of one resolution; the first changes channels and resolution."""
    return nn.Sequential(
        *(
            BasicBlock(channels if i == 0 else out, out, stride if i == 0 else 1)
            for i in range(blocks)
        )
    )


@MODELS.register("resnet20")
def resnet20(spec: ModelSpec) -> CifarResNet:
    """ResNet-20 for CIFAR: 269,722 parameters with 10 classes. ConfigError for images below 4x4."""
    spec.require_size("resnet20", _SMALLEST)
    return CifarResNet(3, spec.in_channels, spec.num_classes)


@MODELS.register("resnet18-cifar")
def resnet18_cifar(spec: ModelSpec) -> nn.Module:
    """torchvision's ResNet-18 with a stem for small images: 11,173,962 parameters with 10 classes."""
    # torchvision takes a second to import; the other models do without.
    from torchvision.models import resnet18

    return _small_stem(
        resnet18(weights=None, num_classes=spec.num_classes), spec.in_channels
    )


@MODELS.register("resnet50-cifar")
def resnet50_cifar(spec: ModelSpec) -> nn.Module:
    """torchvision's ResNet-50 with a stem for small images: 23,520,842 parameters with 10 classes."""
    from torchvision.models import resnet50

    return _small_stem(
        resnet50(weights=None, num_classes=spec.num_classes), spec.in_channels
    )


def _small_stem(model: nn.Module, in_channels: int) -> nn.Module:
    """A 3x3 convolution of stride 1 and no max-pooling: the ImageNet stem would shrink 32 pixels to 8 at once."""
    # Drawn as torchvision draws its own convolutions, so that the stem is of the same scale as what follows.
    model.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    return model
