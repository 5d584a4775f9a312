"""Pairs of images related by a known homography: sequences in a folder, and photos with random warps of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from superpoint_jax.evaluation.images import reduce_image, to_gray, warp_photo
from superpoint_jax.geometry import PRNGKey, sample_homographies
from superpoint_jax.processing import IMAGE_SUFFIXES, ImageError, list_images, load_image
from superpoint_jax.training.augmentation import photometric as change_photos

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """Two images and the homography between them.

    Attributes:
        name: Name of the pair in the report.
        group: Name of the group over which pairs are averaged.
        image_a: File, or uint8 array [H,W] or [H,W,3].
        image_b: File or array, as `image_a`.
        homography: From a to b, in pixels, centres at integers; its sign is such that visible points have positive
            depth.
    """

    name: str
    group: str
    image_a: Path | np.ndarray
    image_b: Path | np.ndarray
    homography: Float[np.ndarray, "3 3"]


def sequence_pairs(folder: str | Path) -> list[Pair]:
    """The pairs (1, 2), (1, 3), ... of each sequence in a folder.

    A sequence is a folder with the images 1.ppm, 2.ppm, ... (HPatches) or img1.png, img2.png, ... (Oxford's affine
    regions), of any image format, and with the 3x3 homographies from the first image to the others as text: H_1_2 or
    H1to2p, with or without .txt. The group is "i" or "v" if the name begins with i_ or v_ (illumination and viewpoint
    in HPatches), else the name of the sequence.

    Raises:
        ValueError: There is no such folder, no sequence in it, a homography without its image, or a homography that is
            not a 3x3 matrix.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; a folder of sequences is needed")
    pairs = []
    for sequence in [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]:
        homographies = {number: path for number in range(2, 100) if (path := _homography_file(sequence, number))}
        for number, path in homographies.items():
            first, other = (_image_file(sequence, k) for k in (1, number))
            group = sequence.name[0] if sequence.name.startswith(("i_", "v_")) else sequence.name
            pairs.append(Pair(f"{sequence.name}/1-{number}", group, first, other, read_homography(path)))
    if not pairs:
        raise ValueError(
            f"{folder} contains no sequences; folders with 1.ppm, 2.ppm, ... and H_1_2, ... are needed (HPatches), "
            f"or with img1.png, img2.png, ... and H_1_2, ..."
        )
    return pairs


def read_homography(path: str | Path) -> Float[np.ndarray, "3 3"]:
    """The 3x3 matrix in a text file, scaled so that its last entry is 1.

    Raises:
        ValueError: The file contains anything else.
    """
    try:
        matrix = np.array(Path(path).read_text().split(), np.float64)
    except ValueError as error:  # Either text that is not UTF-8, or text that is not numbers.
        raise ValueError(f"{path} is not a homography: {error}") from error
    if matrix.shape != (9,) or not np.isfinite(matrix).all() or matrix[8] == 0:
        raise ValueError(
            f"{path} is not a homography: nine finite numbers are needed, the last not 0; {matrix.size} found"
        )
    return matrix.reshape(3, 3) / matrix[8]


def homography_pairs(
    folder: str | Path,
    *,
    seed: int = 0,
    per_photo: int = 1,
    limit: int | None = None,
    long_side: int | None = 640,
    photometric: float = 0.0,
    change: Callable[[PRNGKey, Float[Array, "b h w 1"]], Float[Array, "b h w 1"]] | None = None,
    scale: tuple[float, float] = (0.8, 1.6),
    **homography_options: Any,
) -> Iterator[Pair]:
    """Pairs of a photo in gray and a random warp of it. The same folder, seed and options give the same pairs.

    Beyond the border of the photo, a warp shows the mirror image of the photo, so that there is no additional edge.
    Photos that can't be read are named in the log and skipped.

    Args:
        folder: Folder of photos, at any depth.
        seed: Seed of the random homographies and changes.
        per_photo: Warps per photo.
        limit: Use only this many photos, the first by name.
        long_side: Photos are reduced to this longer side, in pixels; None or 0 never reduces.
        photometric: Strength of blur, shade, contrast, brightness and noise in the warps; 1 is that of training.
        change: A further change of the warps: (key, images [B,H,W,1] in [0, 1]) -> images.
        scale: See `sample_homographies`. Below 0.5, the warps would show aliasing.
        **homography_options: Other options of `sample_homographies`.

    Raises:
        ValueError: There is no such folder, or no photo in it that can be read.
    """
    folder = Path(folder)
    paths = list_images(folder)
    count = 0
    for i, path in enumerate(paths):
        if count == limit:
            return
        try:
            image, _ = reduce_image(to_gray(load_image(path)), long_side)
        except ImageError as error:
            log.warning("skipped: %s", error)
            continue
        count += 1
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), i), 2)
        shape = (image.shape[0], image.shape[1])
        homographies = sample_homographies(keys[0], per_photo, shape, scale=scale, **homography_options)
        warped = warp_photo(image, homographies, side=long_side or max(shape))
        if photometric:
            warped = change_photos(keys[1], warped, strength=photometric)
        if change is not None:
            warped = change(keys[1], warped)
        pixels = np.asarray(jnp.round(255 * warped[:, : shape[0], : shape[1], 0])).astype(np.uint8)
        name = path.relative_to(folder).as_posix()
        for k, homography in enumerate(np.asarray(homographies, np.float64)):
            yield Pair(f"{name}/{k}", "warp", image, pixels[k], homography / homography[2, 2])
    if not count:
        raise ValueError(f"{folder}: none of the photos can be read; the log names each with the reason")


def _image_file(sequence: Path, number: int) -> Path:
    for stem in (f"{number}", f"img{number}"):
        for suffix in IMAGE_SUFFIXES:
            if (path := sequence / (stem + suffix)).is_file():
                return path
    raise ValueError(f"{sequence} contains a homography but no image {number} ({number}.ppm, img{number}.png, ...)")


def _homography_file(sequence: Path, number: int) -> Path | None:
    for name in (f"H_1_{number}", f"H1to{number}p"):
        for path in (sequence / name, sequence / f"{name}.txt"):
            if path.is_file():
                return path
    return None
