"""Search and train a network for a folder of images, export it to ONNX, and classify images with onnxruntime.

    python examples/folder_to_onnx.py search images     # images/CLASS/IMAGE: search, train, and export to images.onnx
    python examples/folder_to_onnx.py classify images.onnx photo.jpg

The second command needs only onnxruntime, NumPy and Pillow, so you can copy this file to another machine.
"""

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

# %% The search: small networks for small images. Choose a larger space and more candidates for more accuracy.
SPEC = {
    "space": "eatnas-small",
    "data": {"name": "ImageFolder", "resolution": 32},
    "training": {"epochs": 8, "batch_size": 32},
    "evolution": {"population": 8, "tournament": 4},
    "budget": {"candidates": 24},
}


def search(folder: Path, changes: list[str]) -> None:
    """Search for a network for the images of a folder, and export the best one."""
    spec = folder.with_suffix(".json")  # JSON is YAML, too
    data = {**SPEC["data"], "root": str(folder.absolute())}
    spec.write_text(json.dumps({"name": folder.name, **SPEC, "data": data}, indent=1))
    overrides = [part for change in changes for part in ("--set", change)]
    for command in (
        ["init"],
        ["search", "create", str(spec), *overrides],
        ["run", folder.name],
        ["export", folder.name, "--format", "onnx", "-o", str(folder), "--force"],
    ):
        subprocess.run(["eatnas-db", *command], check=True)


# %% The use of the network: everything below works without eatnas-db.
def classify(file: Path, images: list[Path]) -> None:
    """Print the most probable class of each image."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    classes, settings = json.loads(metadata["classes"]), json.loads(metadata["preprocessing"])
    for path in images:
        with Image.open(path) as image:
            (logits,) = session.run(None, {"images": preprocess(image, settings)[None]})
        shares = np.exp(logits[0] - logits[0].max())
        shares /= shares.sum()
        print(f"{path}: {classes[shares.argmax()]} ({shares.max():.4f})")


def preprocess(image: Image.Image, settings: dict) -> np.ndarray:
    """Return an image of any size as the input of the network: float32 [channels, side, side]."""
    image = convert(image, settings["mode"])
    side = settings["resolution"]
    if settings["rounding"] == "pillow":
        half = min(image.size) * settings["crop"] / 2
        x, y = image.width / 2, image.height / 2
        image = image.resize((side, side), Image.Resampling.BILINEAR, (x - half, y - half, x + half, y + half))
        pixels = np.atleast_3d(np.asarray(image)).transpose(2, 0, 1)
    else:
        square = min(image.size)
        left, top = (image.width - square) // 2, (image.height - square) // 2
        image = image.crop((left, top, left + square, top + square))
        weights = resize_weights(square, side)
        pixels = np.rint(weights @ np.atleast_3d(np.asarray(image)).transpose(2, 0, 1) @ weights.T)
    mean, deviation = (np.array(settings[name])[:, None, None] for name in ("mean", "deviation"))
    return ((pixels / 255 - mean) / deviation).astype(np.float32)


def convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to another mode. Pillow alone would clip 16-bit and floating-point values."""
    if image.mode == "F" or image.mode.startswith("I"):
        tags = getattr(image, "tag_v2", {})  # TIFF's tags; 258 is the number of bits
        white = 1 if image.mode == "F" else 2 ** int(np.ravel(tags.get(258, 16))[0]) - 1
        values = np.asarray(image, np.float64) / white
        known = image.mode != "I" or image.format in ("PNG", "PPM")
        known = known and (image.mode == "F" or image.format != "FITS")
        if not (known and values.min() >= 0 and values.max() <= 1):
            raise ValueError(f"the mode {image.mode} defines no value for white; save the image with 8 bits")
        grey = np.floor(values * 255 + 0.5).astype(np.uint8)
        image = Image.fromarray(255 - grey if tags.get(262) == 0 else grey)  # 0 is white
    return image.convert("RGB").convert(mode)


def resize_weights(length: int, side: int) -> np.ndarray:
    """Return the weights [side, length] of an antialiased bilinear resize."""
    scale = length / side
    centers = (np.arange(side) + 0.5) * scale - 0.5
    weights = np.maximum(0, 1 - np.abs(centers[:, None] - np.arange(length)) / max(1.0, scale))
    return weights / weights.sum(1, keepdims=True)


# %%
def main() -> None:
    """Run the command `search` or `classify`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    searching = commands.add_parser("search", help="search for a network for a folder of images, and export it")
    searching.add_argument("folder", type=Path)
    searching.add_argument("--set", action="append", default=[], dest="changes", help="override a value of the spec")
    classifying = commands.add_parser("classify", help="classify images with an ONNX file")
    classifying.add_argument("file", type=Path)
    classifying.add_argument("images", type=Path, nargs="+")
    options = parser.parse_args()
    if options.command == "search":
        search(options.folder, options.changes)
    else:
        classify(options.file, options.images)


if __name__ == "__main__":
    main()
