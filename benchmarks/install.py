"""Cost of the way to the first keypoints in a clean environment: download, installation, import, and first `detect`.

    python -m benchmarks.install --json OUT

Downloads are measured in bytes and not in seconds, which depend on the network.
"""

from __future__ import annotations

import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import tyro

from benchmarks.__main__ import machine

REPOSITORY = Path(__file__).parents[1]
ROUNDS = 7
IMPORTS = {"jax and flax": "import jax, flax.nnx", "superpoint_jax": "import superpoint_jax"}


def measure() -> dict[str, Any]:
    """The results, in bytes and seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        python = folder / "env" / "bin" / "python"
        _run(sys.executable, "-m", "venv", str(folder / "env"))
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        _run(*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY))
        (wheel,) = folder.glob("*.whl")
        _run(*pip, "download", "--dest", str(folder / "wheels"), str(wheel))
        downloads = {path.name: path.stat().st_size for path in sorted((folder / "wheels").iterdir())}
        offline = ["install", "--no-index", "--find-links", str(folder / "wheels")]
        install_s = _run(*pip, *offline, "superpoint-jax")
        photo = "from matplotlib.cbook import get_sample_data as g; print(g('grace_hopper.jpg', asfileobj=False))"
        path = subprocess.check_output([str(python), "-c", photo], text=True).strip()
        detect = [str(python.parent / "superpoint-jax"), "detect", path, "-o", str(folder / "keypoints.png")]
        first_s, second_s = _run(*detect), _run(*detect)
        times: dict[str, list[float]] = {name: [] for name in IMPORTS}
        for _ in range(ROUNDS + 1):
            for name, code in IMPORTS.items():
                times[name].append(_run(str(python), "-c", code))
    return {
        "wheel_bytes": wheel_bytes(downloads),
        "download_bytes": sum(downloads.values()),
        "downloads": downloads,
        "install_s": install_s,
        "first_detect_s": first_s,
        "second_detect_s": second_s,
        "import_s": {name: statistics.median(values[1:]) for name, values in times.items()},
        "import_all_s": {name: values[1:] for name, values in times.items()},
    }


def wheel_bytes(downloads: dict[str, int]) -> int:
    """Size of this library's wheel among the downloads."""
    (size,) = (size for name, size in downloads.items() if name.startswith("superpoint_jax-"))
    return size


def _run(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main(*, json_path: Annotated[Path, tyro.conf.arg(name="json")]) -> None:
    """Measure, print and write the results.

    Args:
        json_path: File to write the results to.
    """
    result = {"date": datetime.date.today().isoformat(), "machine": machine()} | measure()
    json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name in ("wheel_bytes", "download_bytes", "install_s", "first_detect_s", "second_detect_s", "import_s"):
        print(f"{name}: {result[name]}")


if __name__ == "__main__":
    tyro.cli(main)
