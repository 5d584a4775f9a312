"""The command line: `superpoint-jax detect | demo | convert | train | evaluate`, one thin function each.

Exit codes: 0 if all went well; 2 if a command could not be understood, or if any of its files could not be read or
written. What is wrong with a file is one line on stderr, and one image's does not stop the others; a command line that
cannot be understood gets an explanation of its options.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import itertools
import json as json_module
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import superpoint_jax as sp
from superpoint_jax import geometry, visualization
from superpoint_jax.processing import load_image, rescale_keypoints
from superpoint_jax.processing.processor import FILE_NAME as PROCESSOR_FILE
from superpoint_jax.weights.save import processor_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Output = Annotated[Path, tyro.conf.arg(aliases=["-o"])]
OptionalOutput = Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="PATH")]
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH")]
Weights = Annotated[str | None, tyro.conf.arg(metavar="SOURCE")]

PAD_MULTIPLE = 64
"""Images are padded to multiples of it, in pixels, so that many sizes share a compilation; no result changes by it."""

DEMO_PHOTO = "grace_hopper.jpg"
"""In matplotlib's package; US Navy, public domain."""
DEMO_THRESHOLD_PX = 3.0


ROOMS = {"train": "superpoint_jax.training.command", "evaluate": "superpoint_jax.evaluation.command"}
"""Commands that live in a room of their own and need an extra; imported when they are asked for."""


class CommandError(Exception):
    """What the user is told in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"superpoint-jax {importlib.metadata.version('superpoint-jax')}")
        return 0
    if arguments and arguments[0] in ROOMS:
        return _run_room(*arguments)
    try:
        return tyro.extras.subcommand_cli_from_dict(
            {"detect": detect, "demo": demo, "convert": convert},
            prog="superpoint-jax",
            description=(
                "SuperPoint keypoints and descriptors. Two more commands have a --help of their own: "
                "`superpoint-jax train` and `superpoint-jax evaluate`. --version prints the version."
            ),
            args=arguments,
        )
    except CommandError as error:
        _complain(error)
        return 2


def _run_room(name: str, *arguments: str) -> int:
    """A command of `ROOMS`, its errors told like all others."""
    try:
        with _told():
            importlib.import_module(ROOMS[name]).main(arguments)
    except CommandError as error:
        _complain(error)
        return 2
    return 0


def detect(
    images: tyro.conf.Positional[tuple[Path, ...]],
    *,
    output: OptionalOutput = None,
    weights: Weights = None,
    max_keypoints: int = 1024,
    json: OptionalPath = None,
    descriptors: bool = False,
) -> int:
    """Find the keypoints of images, print a line for each image, and draw them.

    Args:
        images: Files of any format that Pillow reads. EXIF rotation is respected. 16-bit values count over their full
            range: 12 bits in a 16-bit file are nearly black.
        output: Draw the keypoints, size and colour by score. For one image, the picture to write (.png, .jpg, .pdf,
            .svg); for several, or if it has no suffix, a folder for a picture NAME.png each.
        weights: Folder, file or Hugging Face id; those in the package by default.
        max_keypoints: Keep the best; -1 keeps all (but for crowds of exactly equal scores).
        json: Write the keypoints to this file: a list with an object for each image that could be read, of "image" (the
            path as given), "width", "height" (of the upright image), "num_detected" (before the cut to
            --max-keypoints), "keypoints" ([[x, y], ...] in pixels of the original image, pixel centres at integers) and
            "scores", by which they descend.
        descriptors: Put "descriptors", the unit-length vectors, into the JSON file, too.
    """
    if not images:
        raise CommandError("no image was given: superpoint-jax detect IMAGE...")
    # Before the work, so that none of it is lost.
    pictures = _picture_paths(images, output)
    _check_outputs([path for path in (*pictures, json) if path is not None], images)
    features_of = _load_extractor(weights, max_keypoints)
    entries, failed = [], False
    for path, picture in zip(images, pictures, strict=True):
        try:
            with _told():
                found = features_of(pixels := load_image(path))
            if picture is not None:
                _save(visualization.draw_keypoints(pixels, found), picture)
        except CommandError as error:
            _complain(error)
            failed = True
            continue
        entries.append(_entry(path, found, with_descriptors=descriptors))
        count, entry = len(entries[-1]["keypoints"]), entries[-1]
        of = f" of {entry['num_detected']}" if entry["num_detected"] > count else ""
        wrote = "" if picture is None else f" -> {picture}"
        print(f"{path}: {entry['width']}x{entry['height']}, {count}{of} keypoints{wrote}")
    if json is not None:
        with _told():
            json.write_text(json_module.dumps(entries))
    return 2 if failed else 0


def demo(*, output: Output = Path("demo.png"), weights: Weights = None) -> int:
    """Match a photo with a known homography of it, count the correct matches, and draw them.

    The photo comes with matplotlib. A match by mutual nearest neighbours is correct if it is within 3 pixels of where
    the homography brings the keypoint.

    Args:
        output: The picture to write.
        weights: Folder, file or Hugging Face id; those in the package by default.
    """
    from matplotlib.cbook import get_sample_data

    features_of = _load_extractor(weights, 1024)
    photo = load_image(Path(str(get_sample_data(DEMO_PHOTO, asfileobj=False))))
    homography = demo_homography(photo.shape[0], photo.shape[1])
    warped = _warp(photo, homography)
    a, b = features_of(photo), features_of(warped)
    matches = sp.match(a, b)
    expected_xy = geometry.warp_points(homography, a.keypoints)
    error_px = jnp.linalg.norm(b.keypoints[matches.indices] - expected_xy, axis=-1)
    correct = matches.mask & (error_px <= DEMO_THRESHOLD_PX)
    _save(visualization.draw_matches(photo, warped, a, b, matches, correct=correct), output)
    print(f"{DEMO_PHOTO} and a homography of it: {int(a.mask.sum())} and {int(b.mask.sum())} keypoints")
    print(f"{int(correct.sum())} of {int(matches.mask.sum())} matches are correct (within {DEMO_THRESHOLD_PX:g} px)")
    print(f"wrote {output}")
    return 0


def convert(
    source: tyro.conf.Positional[str],
    *,
    output: Output,
    revision: str | None = None,
) -> int:
    """Convert weights to a folder that this library and transformers open without torch.

    Args:
        source: Folder, file (.safetensors, .bin, .pth) or Hugging Face id.
        output: The folder to write.
        revision: Branch, tag or commit on the hub.
    """
    from superpoint_jax.weights import convert as convert_weights

    with _told():
        print(f"wrote {convert_weights(source, output, revision=revision)}")
    return 0


def demo_homography(height: int, width: int) -> jax.Array:
    """Turn by 15 degrees, zoom by 1.3 and tilt: all that is then in the frame is in the photo, too."""
    center = np.array([[1, 0, (width - 1) / 2], [0, 1, (height - 1) / 2], [0, 0, 1]])
    cos, sin = 1.3 * np.cos(np.pi / 12), 1.3 * np.sin(np.pi / 12)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0.1 / width, -0.1 / height, 1]])
    return jnp.asarray(center @ turn @ np.linalg.inv(center), jnp.float32)


def _warp(photo: np.ndarray, homography: jax.Array) -> np.ndarray:
    """The uint8 photo seen through the homography, in a frame of the same size."""
    warped, _ = geometry.warp_images(jnp.asarray(photo, jnp.float32)[None], homography[None])
    return np.round(np.asarray(warped[0])).astype(np.uint8)


def _load_extractor(weights: str | None, max_keypoints: int) -> Any:
    """A function from the pixels of an image to its keypoints [K], in pixels of that image, whatever its size."""
    with _told():
        model = sp.from_pretrained(weights, max_keypoints=max_keypoints)
        processor = _processor_for(weights, model.config)

    def features_of(pixels: np.ndarray) -> sp.Keypoints:
        inputs = processor(pixels, pad_multiple=PAD_MULTIPLE)
        _, height, width, _ = inputs.pixel_values.shape
        capacity = min(max_keypoints, height * width)
        found = sp.extract(model, inputs.pixel_values, image_sizes=inputs.image_sizes, max_keypoints=capacity)[0]
        keypoints_xy = rescale_keypoints(found.keypoints, found.image_sizes, pixels.shape[:2])
        return dataclasses.replace(
            found,
            keypoints=jnp.where(found.mask[:, None], keypoints_xy, 0),
            image_sizes=jnp.array(pixels.shape[:2], jnp.int32),
        )

    return features_of


def _processor_for(weights: str | None, config: sp.SuperPointConfig) -> sp.SuperPointImageProcessor:
    """What is stored with the weights; for weights alone, what their configuration says."""
    if weights is not None and (path := Path(weights).expanduser()).exists():
        folder = path if path.is_dir() else path.parent
        if not (folder / PROCESSOR_FILE).exists():
            return processor_of(config)
    return sp.SuperPointImageProcessor.from_pretrained(weights)


def _entry(path: Path, found: sp.Keypoints, *, with_descriptors: bool) -> dict[str, Any]:
    """An object of the JSON file; see `detect`."""
    mask = np.asarray(found.mask)
    height, width = found.image_sizes.tolist()
    entry = {
        "image": str(path),
        "width": width,
        "height": height,
        "num_detected": int(found.num_detected),
        # Nine digits tell any two float32 apart; a thousandth of a pixel is enough to read.
        "keypoints": np.asarray(found.keypoints, np.float64)[mask].round(3).tolist(),
        "scores": np.asarray(found.scores)[mask].tolist(),
    }
    if with_descriptors:
        entry["descriptors"] = np.asarray(found.descriptors)[mask].tolist()
    return entry


def _picture_paths(images: Sequence[Path], output: Path | None) -> list[Path | None]:
    """Where the picture of each image goes; folders are made. Equal names are numbered: photo.png, photo-2.png."""
    if output is None:
        return [None] * len(images)
    if len(images) == 1 and output.suffix and not output.is_dir():
        return [output]
    if output.suffix and not output.is_dir():
        raise CommandError(f"{output}: several images need a folder; give --output a name without a suffix")
    with _told():
        output.mkdir(parents=True, exist_ok=True)
    paths: list[Path | None] = []
    for image in images:
        names = itertools.chain([image.stem], (f"{image.stem}-{number}" for number in itertools.count(2)))
        candidates = (output / f"{name}.png" for name in names)
        paths.append(next(path for path in candidates if path not in paths))
    return paths


def _check_outputs(outputs: Sequence[Path], images: Sequence[Path]) -> None:
    inputs = {path.resolve() for path in images}
    for path in outputs:
        if path.resolve() in inputs:
            raise CommandError(f"{path} is one of the images and would be overwritten; choose another output")
        if path.is_dir():
            raise CommandError(f"{path}: is a directory; a file is needed")
        if not path.parent.is_dir():
            raise CommandError(f"{path}: no such folder")


def _save(axes: Axes, path: Path) -> None:
    with _told():
        visualization.save(axes, path)


@contextmanager
def _told() -> Iterator[None]:
    """What files and options can make go wrong, told without a traceback. Not for computing: those are our bugs."""
    try:
        yield
    except OSError as error:
        name = f"{error.filename}: " if error.filename and error.strerror else ""
        raise CommandError(f"{name}{error.strerror or error}") from error
    except (ValueError, ImportError, FloatingPointError) as error:
        raise CommandError(str(error)) from error
    except MemoryError as error:
        raise CommandError("not enough memory") from error


def _complain(error: CommandError) -> None:
    print(f"superpoint-jax: error: {' '.join(str(error).splitlines())}", file=sys.stderr)
