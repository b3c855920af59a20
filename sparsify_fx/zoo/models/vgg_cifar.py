"""VGG-16 with batch norm for small images."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sparsify_fx.zoo.models.spec import MODELS, ModelSpec

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Every stage ends in a halving, and the last one needs two pixels.
_SMALLEST = 2 ** len(_STAGES)


@MODELS.register("vgg16_bn-cifar")
def vgg16_bn_cifar(spec: ModelSpec) -> nn.Sequential:
    """VGG-16's 13 convolutions with batch norm and one linear layer: 14,724,042 parameters with 10 classes.

    The two linear layers of 4,096 units of the ImageNet net are left out, as usual on CIFAR: after five poolings a
    32x32 image is one pixel. The convolutions have no biases (batch norm would cancel them) and He initialization.
    Larger images end in an average over the pixels; ConfigError for images below 32x32.
    Source: [Simonyan 2015].
    """
    spec.require_size("vgg16_bn-cifar", _SMALLEST)
    layers = OrderedDict[str, nn.Module](
        features=_features(spec.in_channels),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(_STAGES[-1][-1], spec.num_classes),
    )
    return nn.Sequential(layers)


def _features(channels: int) -> nn.Sequential:
    """Convolution, batch norm and ReLU for every width, a max-pooling by 2 after every stage."""
    layers: list[nn.Module] = []
    for stage in _STAGES:
        for width in stage:
            layers += [_convolution(channels, width), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _convolution(channels: int, width: int) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
