"""`glyphs`: the built-in data set. A class is a character, an image is that character in one typeface.

Generated in seconds from pip packages: typefaces (the `fontpkg` packages, and DejaVu and STIX from matplotlib) and two
photographs (from scikit-learn). 32 x 32 x 3, 60 images per class, each in a different typeface, in a random pose and
random colours over a crop of a photograph. The splits differ by script: test alphabets are not used in training.

The pixels depend on the versions of Pillow (FreeType) and of the packages, which are pinned by the lock file.
Excluded: characters that look alike across scripts or cases (A/Α/А, c/C, 3/З, ß/β, n/η), and I, l, 1, 0, 8.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from fewshot.datasets.base import Dataset
from fewshot.datasets.images import decode_image
from fewshot.datasets.store import SplitPlan
from fewshot.errors import DataError

CHARACTERS = {
    "train": "ABCDEFGHJKLMNOPQRSTUVWXYZabdefghijkmnqrtuy2345679?&@#%€£¥§¶ÆÞßæŁŒœĐŊŋƏð",
    "validation": "ÂÇÑÖŠŽŘŐÅĞâçñöšžřőåğ",
    "test": "ΔΘΛΞΠΣΦΨΩαγδεζθλμξπσφψωБДЖИЛЦЧШЩЪЫЬЭЮЯЂЄЉЊЋЏбђ",
}
IMAGES_PER_CLASS = 60

FONT_FILES = {
    "fontpkg_roboto": ("Roboto[wdth,wght].ttf", "Roboto-Italic[wdth,wght].ttf"),
    "fontpkg_roboto_slab": ("RobotoSlab[wght].ttf",),
    "fontpkg_comfortaa": ("Comfortaa[wght].ttf",),
    "fontpkg_jetbrains_mono": ("JetBrainsMono[wght].ttf", "JetBrainsMono-Italic[wght].ttf"),
    "fontpkg_fira_code": ("FiraCode[wght].ttf",),
    "fontpkg_eb_garamond": ("EBGaramond[wght].ttf", "EBGaramond-Italic[wght].ttf"),
    "fontpkg_press_start_2p": ("PressStart2P-Regular.ttf",),
    "fontpkg_vollkorn": ("Vollkorn[wght].ttf", "Vollkorn-Italic[wght].ttf"),
    "fontpkg_ibm_plex_sans": ("IBMPlexSans[wdth,wght].ttf", "IBMPlexSans-Italic[wdth,wght].ttf"),
    "fontpkg_open_sans": ("OpenSans[wdth,wght].ttf", "OpenSans-Italic[wdth,wght].ttf"),
    "fontpkg_literata": ("Literata[opsz,wght].ttf", "Literata-Italic[opsz,wght].ttf"),
    "fontpkg_caveat": ("Caveat[wght].ttf",),
    "fontpkg_pacifico": ("Pacifico-Regular.ttf",),
    "fontpkg_lobster": ("Lobster-Regular.ttf",),
    "fontpkg_playfair_display": ("PlayfairDisplay[wght].ttf", "PlayfairDisplay-Italic[wght].ttf"),
}
# matplotlib's other fonts are unusable: one draws placeholders for every character, the cm* have their own encodings.
MATPLOTLIB_FONTS = (
    *("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSansMono", "DejaVuSansMono-Bold"),
    *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)
PHOTOGRAPHS = ("china.jpg", "flower.jpg")

SIZE = 32
CANVAS = 96
FONT_PIXELS = 64
PHOTOGRAPH_SIZE = (320, 214)
LUMINANCE = np.array([0.3, 0.59, 0.11])
MINIMUM_CONTRAST = 60


@dataclass(frozen=True)
class Style:
    """Ranges of the random draws of one image; pairs are (low, high) of a uniform distribution."""

    rotation_deg: float
    shear: float
    shift_px: float
    scale: tuple[float, float]
    photograph_contrast: tuple[float, float]
    noise: tuple[float, float]
    light_ink: bool


STYLES = {
    "plain": Style(12, 0.15, 2, (0.65, 0.95), (0.1, 0.6), (2, 10), light_ink=True),
    "scene": Style(20, 0.25, 3, (0.55, 0.95), (0.1, 1.0), (2, 14), light_ink=False),
}


@dataclass(frozen=True)
class Typeface:
    """A font file at one weight, and the characters it covers."""

    name: str
    font: ImageFont.FreeTypeFont
    characters: frozenset[int]


class Glyphs(Dataset):
    """The built-in default data set."""

    name = "glyphs"
    image_size = SIZE

    def splits(self, files: Sequence[Path], scratch: Path) -> Iterator[SplitPlan]:
        """Yield train (Latin, digits, signs), validation (accented Latin) and test (Greek, Cyrillic)."""
        typefaces, photographs = load_typefaces(), load_photographs()
        for split, characters in CHARACTERS.items():
            images = self._draw(characters, typefaces, photographs)
            yield SplitPlan(split, list(characters), [IMAGES_PER_CLASS] * len(characters), images)

    def _draw(
        self, characters: str, typefaces: list[Typeface], photographs: list[np.ndarray]
    ) -> Iterator[tuple[int, np.ndarray, str]]:
        style = STYLES[self.settings.style]
        for label, character in enumerate(characters):
            rng = np.random.default_rng([self.settings.seed, ord(character)])
            for typeface in choose_typefaces(rng, typefaces, character):
                photograph = photographs[int(rng.integers(len(photographs)))]
                yield label, draw_image(rng, typeface.font, character, photograph, style), typeface.name


def choose_typefaces(rng: np.random.Generator, typefaces: list[Typeface], character: str) -> list[Typeface]:
    """Return `IMAGES_PER_CLASS` different typefaces that cover the character, in random order."""
    suitable = [typeface for typeface in typefaces if ord(character) in typeface.characters]
    if len(suitable) < IMAGES_PER_CLASS:
        raise DataError(
            f"{len(suitable)} installed typefaces have the character {character!r}, {IMAGES_PER_CLASS} are needed; "
            "install the versions of the lock file (`make`)"
        )
    return [suitable[i] for i in rng.permutation(len(suitable))[:IMAGES_PER_CLASS]]


def package_folder(package: str) -> Path:
    """Return the folder of an installed package without importing it.

    Raises:
        DataError: if it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise DataError(f"the glyphs data set needs the Python package {package!r}; install the lock file (`make`)")
    return Path(spec.origin).parent


def font_folder() -> Path:
    """Return the folder of matplotlib's fonts."""
    return package_folder("matplotlib") / "mpl-data" / "fonts" / "ttf"


def load_typefaces() -> list[Typeface]:
    """Load every font file at up to four weights, in a fixed order."""
    paths = [package_folder(package) / "files" / name for package, names in FONT_FILES.items() for name in names]
    paths += [font_folder() / f"{name}.ttf" for name in MATPLOTLIB_FONTS]
    return [typeface for path in paths for typeface in _weights(path)]


def _weights(path: Path) -> Iterator[Typeface]:
    """Yield the typefaces in one font file: thin, regular, semi-bold and heavy of a variable font."""
    try:
        with TTFont(path, lazy=True) as tables:
            characters = frozenset(tables.getBestCmap())
            axes = list(tables["fvar"].axes) if "fvar" in tables else []
    except OSError as error:
        raise DataError(f"cannot read the typeface {path}: {error}; install the lock file (`make`)") from error
    weight = next((axis for axis in axes if axis.axisTag == "wght"), None)
    wanted: list[float | None] = [None]
    if weight is not None:
        wanted = [*sorted({max(weight.minValue, 250.0), 400.0, 600.0, min(weight.maxValue, 850.0)})]
    for value in wanted:
        font = ImageFont.truetype(path, FONT_PIXELS, layout_engine=ImageFont.Layout.BASIC)
        if value is not None:
            font.set_variation_by_axes([value if axis is weight else axis.defaultValue for axis in axes])
        yield Typeface(path.name if value is None else f"{path.name}@{value:g}", font, characters)


def load_photographs() -> list[np.ndarray]:
    """Load scikit-learn's two photographs at reduced size, (214, 320, 3) uint8."""
    folder = package_folder("sklearn") / "datasets" / "images"
    return [
        np.asarray(decode_image((folder / name).read_bytes(), name).image.resize(PHOTOGRAPH_SIZE, Image.Resampling.BOX))
        for name in PHOTOGRAPHS
    ]


def draw_image(
    rng: np.random.Generator, font: ImageFont.FreeTypeFont, character: str, photograph: np.ndarray, style: Style
) -> np.ndarray:
    """Draw one image, (SIZE, SIZE, 3) uint8: the character in ink over a background, and noise."""
    coverage = draw_coverage(rng, font, character, style)
    background = draw_background(rng, photograph, style)
    ink = draw_ink(rng, background, style)
    opacity = rng.uniform(0.7, 1.0)
    image = background + (ink - background) * coverage[..., None] * opacity
    image += rng.normal(0, rng.uniform(*style.noise), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def draw_coverage(rng: np.random.Generator, font: ImageFont.FreeTypeFont, character: str, style: Style) -> np.ndarray:
    """Draw the character rotated, sheared, scaled and shifted; return the ink coverage of each pixel, 0..1."""
    canvas = Image.new("L", (CANVAS, CANVAS), 0)
    ImageDraw.Draw(canvas).text((CANVAS / 2, CANVAS / 2), character, fill=255, font=font, anchor="mm")
    box = canvas.getbbox()
    if box is None:
        raise DataError(f"typeface {font.path!r} draws nothing for {character!r}; install the lock file (`make`)")
    left, top, right, bottom = box
    angle = np.deg2rad(rng.uniform(-style.rotation_deg, style.rotation_deg))
    shear = rng.uniform(-style.shear, style.shear)
    step = max(right - left, bottom - top) / SIZE / rng.uniform(*style.scale)  # canvas pixels per output pixel
    stretch = step * np.exp(rng.uniform(-0.15, 0.15, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    to_canvas = turn @ np.array([[1, shear], [0, 1]]) @ np.diag(stretch)
    centre = np.array([(left + right) / 2, (top + bottom) / 2])
    offset = centre - to_canvas @ (SIZE / 2 + rng.uniform(-style.shift_px, style.shift_px, 2))
    affine = (*to_canvas[0], offset[0], *to_canvas[1], offset[1])
    smooth = canvas.filter(ImageFilter.GaussianBlur(0.35 * step))
    placed = smooth.transform((SIZE, SIZE), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR)
    return np.asarray(placed, np.float64) / 255


def draw_background(rng: np.random.Generator, photograph: np.ndarray, style: Style) -> np.ndarray:
    """Crop a random square of the photograph and lower its contrast; (SIZE, SIZE, 3), 0..255."""
    side = int(rng.integers(24, 97))
    top = rng.integers(0, photograph.shape[0] - side)
    left = rng.integers(0, photograph.shape[1] - side)
    crop = Image.fromarray(photograph[top : top + side, left : left + side])
    method = Image.Resampling.BOX if side >= SIZE else Image.Resampling.BILINEAR
    background = np.asarray(crop.resize((SIZE, SIZE), method), np.float64)
    mean = background.mean((0, 1))
    background = mean + (background - mean) * rng.uniform(*style.photograph_contrast)
    if style.light_ink and background.mean() > 150:
        background *= 120 / background.mean()
    return background


def draw_ink(rng: np.random.Generator, background: np.ndarray, style: Style) -> np.ndarray:
    """Draw a colour, (3,), with enough contrast to the background; use black or white if eight draws fail."""
    mean = background.mean((0, 1))
    for _ in range(8):
        ink = rng.uniform(0, 255, 3)
        contrast = (ink - mean) @ LUMINANCE
        if (contrast if style.light_ink else abs(contrast)) > MINIMUM_CONTRAST:
            return ink
    return np.full(3, 255.0 if style.light_ink or mean.mean() < 128 else 0.0)
