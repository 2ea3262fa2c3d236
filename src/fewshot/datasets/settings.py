"""Settings of the data sets: the entries of section `prepare` of `params.yaml`. Imports neither numpy nor torch."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from fewshot.settings import Settings

Checksum = Annotated[str, Field(pattern=r"^(published|none|[0-9a-f]{64})$")]


class GlyphsSettings(Settings):
    """Settings of `glyphs`, which needs no download."""

    style: Literal["plain", "scene"] = Field(
        "plain", description="plain: light ink on dimmed photographs; scene: any ink on photographs of full contrast"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="seed of the poses, colours and backgrounds")


class SourceSettings(Settings):
    """Where the files of a published data set come from."""

    given_paths: ClassVar[tuple[str, ...]] = ("path",)
    not_content: ClassVar[tuple[str, ...]] = ("mirrors", "sha256", "accept_terms")

    path: str | None = Field(None, min_length=1, description="archive, file or folder to use instead of a download")
    mirrors: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (),
        description="addresses tried before the built-in ones; one that ends in '/' is a folder of the published files",
    )
    sha256: Checksum | dict[str, Checksum] = Field(
        "published",
        description="published: the known checksums; none: no check; 64 hexadecimal digits; or one of these per file",
    )


class ImagenetSettings(SourceSettings):
    """Settings of the data sets that consist of ImageNet images."""

    accept_terms: bool = Field(
        False, description="true: I have read ImageNet's terms (image-net.org/download.php) and may use its images"
    )


class TieredImagenetSettings(ImagenetSettings):
    """Settings of `tiered_imagenet`."""

    channel_order: Literal["auto", "rgb", "bgr"] = Field(
        "auto",
        description="order of the channels in the files that are read; auto: bgr in <split>_images.npz, as the public "
        "unpacking program writes them, rgb in all other forms",
    )


class OmniglotSettings(SourceSettings):
    """Settings of `omniglot`."""

    rotations: bool = Field(False, description="add each class rotated by 90, 180 and 270 degrees as separate classes")


class FolderSettings(Settings):
    """Settings of `folder`: the user's own images."""

    given_paths: ClassVar[tuple[str, ...]] = ("path", "split_file")

    path: str = Field(
        min_length=1,
        description="folder or archive of class folders, or of folders train, validation and test of class folders",
    )
    split_file: str | None = Field(
        None, description="YAML file with lists train, validation and test of class names; default: drawn by split_seed"
    )
    split_shares: Annotated[tuple[float, float, float], Field(strict=False)] = Field(
        (0.6, 0.2, 0.2), description="shares of the classes in train, validation and test of a drawn split; sum 1"
    )
    split_seed: int = Field(0, ge=0, lt=2**32, description="seed of the drawn split")
    image_size: int = Field(84, ge=8, le=512, description="side of the stored images, pixels")
    resize: Literal["squash", "center_crop"] = Field(
        "squash", description="squash: the whole image resized to a square; center_crop: its central square"
    )

    on_broken: Literal["refuse", "skip"] = Field(
        "refuse", description="refuse: an image that cannot be used is an error; skip: it is left out and recorded"
    )

    @model_validator(mode="after")
    def _check_shares(self) -> "FolderSettings":
        if min(self.split_shares) <= 0 or abs(sum(self.split_shares) - 1) > 1e-6:
            raise ValueError(f"split_shares {self.split_shares} must be three positive numbers that sum to 1")
        return self
