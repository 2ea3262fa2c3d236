"""CIFAR-FS: CIFAR-100 split 64 / 16 / 20 (Bertinetto et al., ICLR 2019); classes in `splits/cifar_fs.yaml`."""

from fewshot.datasets.cifar100 import Cifar100Dataset


class CifarFs(Cifar100Dataset):
    """The data set `cifar_fs`."""

    name = "cifar_fs"
