"""`superpoint-jax export`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import tyro

from superpoint_jax.cli.arguments import Decoding, Matching, Output
from superpoint_jax.cli.errors import CommandError, told


def export(
    *,
    output: Output,
    format: Annotated[Literal["stablehlo", "onnx"], tyro.conf.arg(aliases=["-f"])] = "stablehlo",
    decoding: tyro.conf.OmitArgPrefixes[Decoding] = Decoding(),
    matcher: Annotated[str | None, tyro.conf.arg(metavar="nearest|lightglue|SOURCE")] = None,
    shape: tuple[int, int] | None = None,
    channels: Literal[1, 3] = 1,
    batch: int | None = None,
    mixed_sizes: bool = False,
    beside: bool = False,
    config: str | None = None,
) -> int:
    """Write the extraction, or extraction and matching, as a file that other programs run without this package.

    stablehlo: for jax.export.deserialize, on CPU, CUDA and TPU, with any number of images. onnx: for ONNX Runtime,
    OpenVINO and similar programs (pip install 'superpoint-jax[export]').

    Args:
        output: File to write.
        format: stablehlo or onnx.
        decoding: Which weights, and which keypoints. The output has --max-keypoints rows. That can be -1, for all that
            fit into an image, only for onnx without a matcher.
        matcher: Also match; the file then takes pairs of images. "nearest" for mutual nearest neighbours of
            descriptors, "lightglue" for the network in the package, or a folder, file or Hugging Face id of a
            LightGlue.
        shape: (height, width) of the arrays. By default any for onnx, and 480 640 for stablehlo.
        channels: 1 for gray images, 3 for RGB.
        batch: Images per call for onnx, by default any number; with a matcher pairs, by default 1. Stablehlo takes any
            number.
        mixed_sizes: For onnx: images of one call may have different sizes, which costs time. Stablehlo always can.
        beside: Write the weights to a separate file next to the output.
        config: Preset that decides how keypoints are decoded: huggingface, magicleap, rpautrat, superglue, ...; by
            default that of the weights.
    """
    from superpoint_jax.export import export_onnx, export_stablehlo
    from superpoint_jax.weights import from_pretrained

    if decoding.max_keypoints < 1 and (format == "stablehlo" or decoding.max_keypoints != -1):
        raise CommandError(f"max_keypoints={decoding.max_keypoints}; this file has a fixed number of rows, at least 1")
    if format == "stablehlo" and batch is not None:
        raise CommandError("--batch is for onnx; a stablehlo file takes any number of images")
    with told():
        model = from_pretrained(decoding.weights, config=config)
        network = None if matcher is None else Matching(matcher=matcher).network(model.config)
        options: dict[str, Any] = dict(
            matcher="nearest" if matcher == "nearest" else network,
            channels=channels,
            weights="beside" if beside else "inside",
            **decoding.given(),
        )
        if format == "onnx":
            written = export_onnx(model, output, shape=shape, batch=batch, mixed_sizes=mixed_sizes, **options)
        else:
            written = export_stablehlo(model, output, shape=shape or (480, 640), **options)
        for path in written:
            print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0
