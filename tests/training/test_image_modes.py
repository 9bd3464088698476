"""Images of every mode that Pillow reads are converted to the values that the tests compute."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.TiffImagePlugin
import pytest

from eatnas_db.errors import DataError
from eatnas_training.data.image_files import open_image
from eatnas_training.data.image_modes import UnsupportedModeError, convert_to_rgb

GREYS = np.array([[0, 1000, 32896], [257, 65278, 65535]], np.uint16)
GREYS_OF_8_BITS = [[0, 4, 128], [1, 254, 255]]


def decoded(path: Path) -> np.ndarray:
    return np.asarray(open_image(str(path)))


def saved(path: Path, image: PIL.Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def tiff_of_words(path: Path, values: np.ndarray, **tags: int) -> Path:
    """Write an uncompressed TIFF with one strip, for the kinds of TIFF that Pillow can read but not write."""
    height, width = values.shape
    data = values.tobytes()
    entries = {256: width, 257: height, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: len(data)}
    entries.update({int(tag.removeprefix("tag")): value for tag, value in tags.items()})
    folder = struct.pack("<H", len(entries))
    for tag, value in sorted(entries.items()):
        folder += struct.pack("<HHII", tag, 4, 1, value)
    path.write_bytes(struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + folder + bytes(4))
    return path


@pytest.mark.parametrize("file", ["a.png", "a.tiff", "a.pgm"])
def test_16_bit_greys_are_scaled(tmp_path: Path, file: str) -> None:
    pixels = decoded(saved(tmp_path / file, PIL.Image.fromarray(GREYS)))
    assert pixels.shape == (2, 3, 3)
    assert all(pixels[:, :, channel].tolist() == GREYS_OF_8_BITS for channel in range(3))


def test_big_endian_16_bit_tiff_is_scaled(tmp_path: Path) -> None:
    image = PIL.Image.new("I;16B", (2, 1))
    image.putpixel((0, 0), 1000)
    image.putpixel((1, 0), 65535)
    assert decoded(saved(tmp_path / "a.tiff", image))[:, :, 0].tolist() == [[4, 255]]


def test_16_bit_jpeg_2000_is_scaled(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jp2", PIL.Image.fromarray(np.tile(GREYS, (4, 4))))
    assert decoded(path)[:2, :3, 1].tolist() == GREYS_OF_8_BITS


def test_portable_grey_map_with_another_white_is_scaled(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(b"P2 3 1 1023\n0 511 1023\n")
    assert decoded(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 127, 255]


def test_16_bit_tiff_whose_white_is_zero_is_inverted(tmp_path: Path) -> None:
    path = tiff_of_words(tmp_path / "a.tiff", GREYS, tag262=0)
    assert decoded(path)[:, :, 0].tolist() == (255 - np.array(GREYS_OF_8_BITS)).tolist()


def test_12_bit_tiff_is_scaled_by_its_own_white(tmp_path: Path) -> None:
    # The values, of 12 bits each, are 4095, 0, 2048 and 0.
    packed = np.frombuffer(bytes([0xFF, 0xF0, 0x00, 0x80, 0x00, 0x00]), np.uint8)[None]
    path = tiff_of_words(tmp_path / "a.tiff", packed, tag256=4, tag257=1, tag258=12, tag278=1)
    assert decoded(path)[0, :, 0].tolist() == [255, 0, 128, 0]


@pytest.mark.parametrize("file", ["a.tiff", "a.pfm"])
def test_floats_from_0_to_1_are_scaled(tmp_path: Path, file: str) -> None:
    floats = np.array([[0, 0.25, 1], [0.5, 0.999, 0.002]], np.float32)
    pixels = decoded(saved(tmp_path / file, PIL.Image.fromarray(floats)))
    assert pixels[:, :, 2].tolist() == [[0, 64, 255], [128, 255, 1]]


@pytest.mark.parametrize("values", [[0, 255], [-0.1, 1], [0, np.nan], [0, np.inf], [0, 1.01]])
def test_floats_outside_0_to_1_are_refused_by_name(tmp_path: Path, values: list[float]) -> None:
    path = saved(tmp_path / "a.tiff", PIL.Image.fromarray(np.array([values], np.float32)))
    with pytest.raises(DataError, match=r"a\.tiff cannot be used: its pixels are floats from .* to [^\n]*$"):
        open_image(str(path))


@pytest.mark.parametrize("kind", ["int32", "signed 16 bits"])
def test_integers_without_a_white_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tiff"
    if kind == "int32":
        saved(path, PIL.Image.fromarray(np.array([[0, 70_000]], np.int32)))
    else:
        tiff_of_words(path, np.array([[-5, 5]], np.int16), tag339=2)
    with pytest.raises(DataError, match=r"a\.tiff cannot be used: its pixels are of Pillow's mode I, [^\n]*$"):
        open_image(str(path))


def test_16_bit_fits_is_refused_by_name(tmp_path: Path) -> None:
    cards = ["SIMPLE  = T", "BITPIX  = 16", "NAXIS   = 2", "NAXIS1  = 2", "NAXIS2  = 1", "END"]
    header = "".join(card.ljust(80) for card in cards).ljust(2880)
    (tmp_path / "a.fits").write_bytes(header.encode() + bytes(2880))
    with pytest.raises(DataError, match=r"a\.fits cannot be used: .*FITS"):
        open_image(str(tmp_path / "a.fits"))


RGB = [[255, 0, 0], [0, 128, 255], [10, 20, 30]]


def image_of(mode: str, *pixels: tuple[int, ...]) -> PIL.Image.Image:
    return PIL.Image.frombytes(mode, (len(pixels), 1), bytes(value for pixel in pixels for value in pixel))


def palette_image(mode: str = "P") -> PIL.Image.Image:
    image = PIL.Image.new("P", (3, 1))
    image.putpalette([value for color in RGB for value in color])
    image.putdata([0, 1, 2])
    return image if mode == "P" else image.convert(mode)


@pytest.mark.parametrize(
    ("image", "file", "expected"),
    [
        (PIL.Image.frombytes("1", (8, 1), b"\x50"), "a.png", [[0] * 3, [255] * 3, [0] * 3]),
        (image_of("L", (0,), (7,), (255,)), "a.png", [[0] * 3, [7] * 3, [255] * 3]),
        (image_of("LA", (0, 255), (7, 0), (255, 128)), "a.png", [[0] * 3, [7] * 3, [255] * 3]),
        (palette_image(), "a.png", RGB),
        (palette_image(), "a.gif", RGB),
        (palette_image("PA"), None, RGB),
        (image_of("RGB", *RGB), "a.png", RGB),
        (image_of("RGBA", *((*color, 3) for color in RGB)), "a.png", RGB),
        (image_of("RGBX", *((*color, 3) for color in RGB)), "a.tiff", RGB),
        (image_of("CMYK", (0, 255, 255, 0), (255, 127, 0, 0), (0, 0, 0, 155)), "a.tiff", [RGB[0], RGB[1], [100] * 3]),
        (image_of("YCbCr", (76, 85, 255), (255, 128, 128), (0, 128, 128)), None, [RGB[0], [255] * 3, [0] * 3]),
        (image_of("LAB", (138, 81, 70), (255, 0, 0), (0, 0, 0)), "a.tiff", [RGB[0], [255] * 3, [0] * 3]),
        (image_of("HSV", (0, 255, 255), (0, 0, 77), (0, 0, 0)), None, [RGB[0], [77] * 3, [0] * 3]),
        (image_of("RGBa", (100, 50, 0, 128), (9, 9, 9, 255), (0, 0, 0, 0)), None, [[199, 99, 0], [9] * 3, [0] * 3]),
        (image_of("La", (100, 128), (9, 255), (0, 0)), None, [[199] * 3, [9] * 3, [0] * 3]),
    ],
    ids=lambda value: value.mode if isinstance(value, PIL.Image.Image) else "",
)
def test_modes_of_8_bits_keep_their_colors(
    tmp_path: Path, image: PIL.Image.Image, file: str | None, expected: list[list[int]]
) -> None:
    # Images in modes that no file format of Pillow stores are converted without a file.
    pixels = np.asarray(convert_to_rgb(image)) if file is None else decoded(saved(tmp_path / file, image))
    tolerance = 5 if image.mode in ("LAB", "YCbCr") else 0
    assert np.abs(pixels[0, :3].astype(int) - np.array(expected)).max() <= tolerance


def test_palette_with_transparency_keeps_its_colors_without_a_warning(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", palette_image(), transparency=b"\x00\x80\xff")
    assert decoded(path)[0].tolist() == RGB


def test_every_mode_of_pillow_is_converted_or_refused() -> None:
    for mode in PIL.Image.MODES:
        image = PIL.Image.new(mode, (2, 3))
        image.format = "TIFF"
        if mode == "I":
            with pytest.raises(UnsupportedModeError, match="mode I,"):
                convert_to_rgb(image)
        else:
            assert (convert_to_rgb(image).mode, convert_to_rgb(image).size) == ("RGB", (2, 3)), mode


def test_16_bit_colors_keep_their_high_byte(tmp_path: Path) -> None:
    colors = np.array([[[0, 257 * 99, 65535], [257 * 7, 257 * 8, 257 * 9]]], np.uint16)
    path = tiff_of_words(tmp_path / "a.tiff", colors.reshape(1, 6), tag256=2, tag262=2, tag277=3)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<HHII", 258, 4, 1, 16))
    content[at : at + 12] = struct.pack("<HHII", 258, 3, 3, len(content))
    path.write_bytes(bytes(content) + struct.pack("<3H", 16, 16, 16))
    assert decoded(path)[0].tolist() == [[0, 99, 255], [7, 8, 9]]
    assert PIL.Image.open(io.BytesIO(path.read_bytes())).mode == "RGB"
