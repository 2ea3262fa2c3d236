"""Where the published files are available, and their checksums in public programs.

An address does not affect the content of a store, which is checked by checksum, class lists and counts.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class RemoteFile:
    """One file to download.

    Attributes:
        name: name under which it is stored.
        addresses: mirrors, in the order in which they are tried.
        md5: checksum used by public programs (torchvision, torchmeta), if any.
        sha256: likewise (Keras, torchvision's prototypes); preferred to `md5`.
        size: size in bytes, for the disk check before the server states it.
        size_is_exact: whether it was taken from the file itself; else it is approximate.
    """

    name: str
    addresses: tuple[str, ...]
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    size_is_exact: bool = False


@dataclass(frozen=True)
class Release:
    """The files of one data set.

    Attributes:
        folder: subfolder of the raw files; data sets may share it.
        files: the files, all of which are needed.
        terms: terms that the user must accept before a download; None if there are none.
    """

    folder: str
    files: tuple[RemoteFile, ...]
    terms: str | None = None


ZENODO = "https://zenodo.org/record/7978538/files/"
HUB = "https://huggingface.co/datasets/"
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
IMAGENET_TERMS = (
    "It consists of ImageNet images, whose terms allow non-commercial research and education only: "
    "https://image-net.org/download.php"
)

CIFAR100 = Release(
    "cifar100",
    (
        RemoteFile(
            "cifar-100-python.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            size=169_001_437,
            size_is_exact=True,
        ),
    ),
)
CIFAR100_PARQUET = Release(
    "cifar100-parquet",
    tuple(
        RemoteFile(name, (f"{HUB}uoft-cs/cifar100/resolve/main/cifar100/{name}",), sha256=sha256, size=size)
        for name, sha256, size in (
            (
                "train-00000-of-00001.parquet",
                "694865d6b990e234804f01268586c41e88bcbbb75e20858432c05ad4081aca23",
                119_000_000,
            ),
            (
                "test-00000-of-00001.parquet",
                "98776c529bb146a9c791229df74a5cf076be9b43d82dbbd334b6a7788d73dc68",
                23_772_751,
            ),
        )
    ),
)


def _from_zenodo(sizes: dict[str, int | None]) -> tuple[RemoteFile, ...]:
    """Return files of the record, by name, with their approximate sizes; no public program states a checksum."""
    return tuple(RemoteFile(name, (ZENODO + name,), size=size) for name, size in sizes.items())


RELEASES: dict[str, tuple[Release, ...]] = {
    "cifar_fs": (
        CIFAR100,
        CIFAR100_PARQUET,
        Release("cifar_fs", (RemoteFile("cifar100.zip", (ZENODO + "cifar100.zip",), size=190_000_000),)),
    ),
    "fc100": (
        CIFAR100,
        CIFAR100_PARQUET,
        Release("fc100", (RemoteFile("fc100.zip", (ZENODO + "fc100.zip",), size=170_000_000),)),
    ),
    "mini_imagenet": (
        Release(
            "mini_imagenet",
            _from_zenodo(
                {
                    "mini-imagenet-cache-train.pkl": 813_000_000,
                    "mini-imagenet-cache-validation.pkl": 203_000_000,
                    "mini-imagenet-cache-test.pkl": 254_000_000,
                }
            ),
            terms=IMAGENET_TERMS,
        ),
        Release(
            "mini_imagenet",
            (
                RemoteFile(
                    "mini-imagenet.tar.gz",
                    (f"{DRIVE}16V_ZlkW4SsnNDtnGmaBRq2OoPmUOc5mY",),
                    md5="b38f1eb4251fb9459ecc8e7febf9b2eb",
                    size=1_100_000_000,
                ),
            ),
            terms=IMAGENET_TERMS,
        ),
    ),
    "tiered_imagenet": (
        Release(
            "tiered_imagenet",
            _from_zenodo(
                {
                    "tiered-imagenet-train_images_png.pkl": 7_500_000_000,
                    "tiered-imagenet-train_labels.pkl": None,
                    "tiered-imagenet-val_images_png.pkl": 2_100_000_000,
                    "tiered-imagenet-val_labels.pkl": None,
                    "tiered-imagenet-test_images_png.pkl": 3_400_000_000,
                    "tiered-imagenet-test_labels.pkl": None,
                }
            ),
            terms=IMAGENET_TERMS,
        ),
        Release(
            "tiered_imagenet",
            (
                RemoteFile(
                    "tiered-imagenet.tar",
                    (f"{DRIVE}1g1aIDy2Ar_MViF2gDXFYDBTR-HYecV07",),
                    md5="e07e811b9f29362d159a9edd0d838c62",
                    size=12_900_000_000,
                ),
            ),
            terms=IMAGENET_TERMS,
        ),
    ),
    "cub": (
        Release(
            "cub",
            (
                RemoteFile(
                    "CUB_200_2011.tgz",
                    (
                        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                        "https://zenodo.org/record/8000562/files/CUB_200_2011.tgz",
                    ),
                    md5="97eceeb196236b17998738112f37df78",
                    sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
                    size=1_150_585_339,
                    size_is_exact=True,
                ),
            ),
        ),
    ),
    "omniglot": (
        Release(
            "omniglot",
            tuple(
                RemoteFile(
                    name,
                    (f"https://raw.githubusercontent.com/brendenlake/omniglot/master/python/{name}",),
                    md5=md5,
                    size=size,
                    size_is_exact=True,
                )
                for name, md5, size in (
                    ("images_background.zip", "68d2efa1b9178cc56df9314c21c6e718", 9_464_212),
                    ("images_evaluation.zip", "6b91aef0f799c5bb55b94e3f2daec811", 6_462_886),
                )
            ),
        ),
    ),
}

MANUAL_STEPS = {
    "cifar_fs": "fetch cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html",
    "fc100": "fetch cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html",
    "mini_imagenet": (
        f"fetch mini-imagenet-cache-train.pkl, -validation.pkl and -test.pkl from {ZENODO[:-6]} into one folder, "
        "or images in folders named by WordNet id"
    ),
    "tiered_imagenet": (
        f"fetch tiered-imagenet.tar (12.9 GB) from {DRIVE}1g1aIDy2Ar_MViF2gDXFYDBTR-HYecV07, or "
        "put the training images of ILSVRC-2012 in folders named by WordNet id"
    ),
    "cub": "fetch CUB_200_2011.tgz from https://data.caltech.edu/records/65de6-vp158",
    "omniglot": (
        "fetch images_background.zip and images_evaluation.zip from "
        "https://github.com/brendenlake/omniglot/tree/master/python into one folder"
    ),
}


def manual_steps(name: str) -> str:
    """Return the steps to take by hand when no download works."""
    steps = MANUAL_STEPS.get(name, "fetch its files")
    return f"By hand: {steps}; then set prepare.{name}.path in params.yaml to its path."
