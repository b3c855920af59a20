"""Models by name: the zoo's own, one file per family, and all of torchvision and timm.

Importing this package registers the zoo's own. A newcomer is one function from a `ModelSpec` to a module, decorated
with `MODELS.register("its-name")`.
"""

from sparsify_fx.zoo.models import lenet, resnet_cifar, vgg_cifar
from sparsify_fx.zoo.models.build import build_model
from sparsify_fx.zoo.models.spec import MODELS, ModelBuilder, ModelSpec

__all__ = [
    "MODELS",
    "ModelBuilder",
    "ModelSpec",
    "build_model",
    "lenet",
    "resnet_cifar",
    "vgg_cifar",
]
