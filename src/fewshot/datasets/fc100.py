"""FC100: CIFAR-100 split by superclass 60 / 20 / 20 (Oreshkin et al., 2018); classes in `splits/fc100.yaml`."""

from fewshot.datasets.cifar100 import Cifar100Dataset


class Fc100(Cifar100Dataset):
    """The data set `fc100`."""

    name = "fc100"
