"""Convert weights and verify the result: `python -m convert SRC -o OUT [--verify] [--images PHOTO ...]`.

Exit code 0: the weights are converted, and with --verify also verified. 1: the result differs from the original. 2: the
weights could not be converted or verified.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .photos import load_photos
from .verification import run


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code, after the command has run."""
    parser = argparse.ArgumentParser(prog="python -m convert", description="Convert weights and verify the result.")
    parser.add_argument("source", metavar="SRC", help="hub id, folder, .safetensors, .bin or .pth")
    parser.add_argument("-o", "--output", metavar="OUT", type=Path, required=True, help="folder to write")
    parser.add_argument("--revision", help="branch, tag or commit on the hub")
    parser.add_argument("--verify", action="store_true", help="compare with the PyTorch original on photos")
    parser.add_argument("--images", metavar="PHOTO", nargs="+", type=Path, default=[], help="photos to verify on")
    options = parser.parse_args(arguments)
    try:
        photos = load_photos(options.images) if options.verify else None
        return 0 if run(options.source, options.output, revision=options.revision, verify_photos=photos) else 1
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
