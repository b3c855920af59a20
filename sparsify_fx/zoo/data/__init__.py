"""Data sets by spec: `mnist5k`, `mnist`, `cifar10`, `cifar100`, `imagefolder:PATH`, `npz:PATH`, one file per kind.

Importing this package registers them. A newcomer is one file that ends in `DATASETS.add("its-name", Kind(load))`.
"""

from sparsify_fx.zoo.data import cifar, imagefolder, mnist, mnist5k, npz, own
from sparsify_fx.zoo.data.augment import Augment
from sparsify_fx.zoo.data.chunked import Chunked
from sparsify_fx.zoo.data.dataset_source import DatasetSource
from sparsify_fx.zoo.data.decoders import DECODERS, Decoder
from sparsify_fx.zoo.data.folder_source import FolderSource
from sparsify_fx.zoo.data.load import (
    DATASETS,
    LIMIT_BYTES,
    Kind,
    Request,
    data_digest,
    load_data,
)
from sparsify_fx.zoo.data.source import Facts, Source
from sparsify_fx.zoo.data.tensor_source import TensorSource
from sparsify_fx.zoo.data.types import Data, Part

__all__ = [
    "DATASETS",
    "DECODERS",
    "LIMIT_BYTES",
    "Augment",
    "Chunked",
    "Data",
    "DatasetSource",
    "Decoder",
    "Facts",
    "FolderSource",
    "Kind",
    "Part",
    "Request",
    "Source",
    "TensorSource",
    "cifar",
    "data_digest",
    "imagefolder",
    "load_data",
    "mnist",
    "mnist5k",
    "npz",
    "own",
]
