"""Pixel statistics by name. Not in `params.py`, because these numbers affect results and must be part of the keys."""

# Pixel statistics on the 0..255 scale: (mean, standard deviation) of each channel.
NORMALIZATIONS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "none": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    # MetaOptNet's loaders (miniImageNet statistics also for tieredImageNet, CIFAR-FS statistics also for FC100)
    "imagenet": ((120.39586422, 115.59361427, 104.54012653), (70.68188272, 68.27635443, 72.54505529)),
    "cifar": ((129.37731888, 124.10583864, 112.47758569), (68.20947949, 65.43124043, 70.45866994)),
    # torchvision's ImageNet statistics, used by MAML++ and ALFA
    "torchvision": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
