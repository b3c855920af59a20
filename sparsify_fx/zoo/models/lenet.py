"""LeNets: two convolutions and three linear layers, a plain MLP, and a small net with batch norm.

Each is an `nn.Sequential` with named layers: conv1, bn1, relu1, pool1, ... fc3.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from sparsify_fx.zoo.models.spec import MODELS, ModelSpec

_KERNEL = 5
# Leaves one pixel after two unpadded 5x5 convolutions, each halved: 16, 12, 6, 2, 1.
_SMALLEST = 16


def _flat_side(image_size: int) -> int:
    """Side of the last feature map: twice a convolution without padding and a pooling by 2.

    >>> _flat_side(28), _flat_side(32)
    (4, 5)
    """
    for _ in range(2):
        image_size = (image_size - _KERNEL + 1) // 2
    return image_size


@MODELS.register("lenet5")
def lenet5(spec: ModelSpec) -> nn.Sequential:
    """LeNet-5 with ReLU and max-pooling: conv 6, conv 16 (5x5, no padding), linear 120, 84, classes.

    44,426 parameters on 28x28x1, 62,006 on 32x32x3. ConfigError for images below 16x16.
    Source: [LeCun 1998].
    """
    spec.require_size("lenet5", _SMALLEST)
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(spec.in_channels, 6, _KERNEL),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, _KERNEL),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(16 * _flat_side(spec.image_size) ** 2, 120),
        relu3=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        fc3=nn.Linear(84, spec.num_classes),
    )
    return nn.Sequential(layers)


@MODELS.register("lenet300")
def lenet300(spec: ModelSpec) -> nn.Sequential:
    """LeNet-300-100: linear 300, 100, classes with ReLU; 266,610 parameters on 28x28x1.

    Source: [LeCun 1998]; the MLP of [Frankle 2019].
    """
    layers = OrderedDict[str, nn.Module](
        flatten=nn.Flatten(),
        fc1=nn.Linear(spec.in_channels * spec.image_size**2, 300),
        relu1=nn.ReLU(),
        fc2=nn.Linear(300, 100),
        relu2=nn.ReLU(),
        fc3=nn.Linear(100, spec.num_classes),
    )
    return nn.Sequential(layers)


@MODELS.register("lenet5-bn")
def lenet5_bn(spec: ModelSpec) -> nn.Sequential:
    """A wider LeNet-5 with batch norm after every hidden layer: conv 16, conv 32 (5x5), linear 128, classes.

    80,378 parameters on 28x28x1. ConfigError for images below 16x16. Our own: batch norm keeps it trainable under
    random masks of high sparsity, where LeNet-5 from PyTorch's initialization hardly moves.
    """
    spec.require_size("lenet5-bn", _SMALLEST)
    # No biases in front of a batch norm, which subtracts the mean of its input and them with it.
    layers = OrderedDict[str, nn.Module](
        conv1=nn.Conv2d(spec.in_channels, 16, _KERNEL, bias=False),
        bn1=nn.BatchNorm2d(16),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(16, 32, _KERNEL, bias=False),
        bn2=nn.BatchNorm2d(32),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        fc1=nn.Linear(32 * _flat_side(spec.image_size) ** 2, 128, bias=False),
        bn3=nn.BatchNorm1d(128),
        relu3=nn.ReLU(),
        fc2=nn.Linear(128, spec.num_classes),
    )
    return nn.Sequential(layers)
