"""The cameras of a COLMAP database: which photos share one, and what is known of its parameters."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from superpoint_jax.files import require_regular

CameraMode = Literal["auto", "single", "per-folder", "per-image"]
DEFAULT_MODEL = "SIMPLE_RADIAL"
FOCAL_LENGTHS = 0.1, 10.0
"""COLMAP's mapper drops a camera whose focal length is not within these multiples of the longer side."""
MAX_DISTORTION = 1.0
"""COLMAP's mapper drops a camera with a distortion parameter above this."""

_LINE = re.compile(r"(.+?)\s+([A-Z][A-Z_]+)\s+(\d+)\s+(\d+)\s+(.+)")


@dataclass(frozen=True, kw_only=True)
class Cameras:
    """Which photos share a camera in a COLMAP database, and its parameters; all as in COLMAP's `feature_extractor`.

    Attributes:
        camera_mode: Only for a COLMAP database, which photos share a camera: "single" is one for all, "per-folder" one
            per folder, "per-image" one each; "auto" is one each, but photos of one size whose EXIF data name the same
            camera and focal length share one.
        camera_model: Only for a COLMAP database: a camera model of COLMAP, SIMPLE_RADIAL by default. The focal length
            comes from the EXIF data, or is guessed as 1.2 times the longer side.
        intrinsics: Only for a COLMAP database: the parameters of --camera-model with commas between them, for example
            fx,fy,cx,cy for PINHOLE; or a text file with NAME MODEL WIDTH HEIGHT PARAMETERS... per line for a photo or a
            folder (hloc's lists with intrinsics), or COLMAP's cameras.txt with one camera. The centre of the first
            pixel is (0.5, 0.5), as in COLMAP.
    """

    camera_mode: CameraMode = "auto"
    camera_model: str | None = None
    intrinsics: str | None = None

    @property
    def cameras_given(self) -> bool:
        """Whether any of these options was given."""
        return (self.camera_mode, self.camera_model, self.intrinsics) != ("auto", None, None)


class Intrinsics(NamedTuple):
    """A camera that is known.

    Attributes:
        line: The number of its line in a file, whose photos share it; 0 if it was given without a file.
        model: COLMAP's name of its model.
        params: Its parameters with commas between them, in COLMAP's order and frame.
        size: (width, height) of its photos in pixels, if known.
    """

    line: int
    model: str
    params: str
    size: tuple[int, int] | None


def read_intrinsics(cameras: Cameras, names: Iterable[str]) -> dict[str, Intrinsics]:
    """The known camera of each image; images of which none is known are left out.

    In a file, a line for an image comes before one for its folder, and that before one for a folder above. `.` is the
    folder that all names are relative to. Lines that begin with # are left out.

    Raises:
        ImportError: pycolmap is not installed.
        ValueError: Another model, number of parameters or layout than is needed, or a line that no image belongs to.
        OSError: The file can't be read.
    """
    model = cameras.camera_model or DEFAULT_MODEL
    _parameters(model, "camera_model")
    if cameras.intrinsics is None:
        return {}
    path = Path(cameras.intrinsics)
    if path.exists():
        if cameras.camera_mode != "auto" or cameras.camera_model is not None:
            raise ValueError(
                f"{path} names the model of each camera and the photos that share it; leave camera_mode and "
                f"camera_model out"
            )
        return _read_file(path, list(names))
    if cameras.camera_model is None:
        raise ValueError(
            f"intrinsics={cameras.intrinsics!r} is no file, and numbers need a camera_model, for example PINHOLE for "
            f"fx,fy,cx,cy or {DEFAULT_MODEL} for f,cx,cy,k"
        )
    known = Intrinsics(0, model, _checked(model, cameras.intrinsics.split(","), "intrinsics"), None)
    return dict.fromkeys(names, known)


def _read_file(path: Path, names: list[str]) -> dict[str, Intrinsics]:
    require_regular(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text file") from error
    known: dict[str, Intrinsics] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}, line {number}"
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"{where}: NAME MODEL WIDTH HEIGHT PARAMETERS... is needed, not {line.strip()!r}")
        name, model, width, height, params = found.groups()
        if name in known:
            raise ValueError(f"{where}: {name!r} is in line {known[name].line} too")
        known[name] = Intrinsics(number, model, _checked(model, params.split(), where), (int(width), int(height)))
    if len(known) == 1 and not known.keys() & _places(names) and next(iter(known)).isdigit():
        known = {".": next(iter(known.values()))}  # COLMAP's cameras.txt begins with the number of the camera.
    for name, one in known.items():
        if name not in _places(names):
            raise ValueError(f"{path}, line {one.line}: there is no image and no folder {name!r}, relative to the root")
    chosen = {name: next((known[place] for place in _places_of(name) if place in known), None) for name in names}
    return {name: one for name, one in chosen.items() if one is not None}


def _places_of(name: str) -> list[str]:
    """An image and the folders that it is in, from the innermost on."""
    parts = name.split("/")
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)] + ["."]


def _places(names: list[str]) -> set[str]:
    return set(itertools.chain.from_iterable(map(_places_of, names)))


def _parameters(model: str, where: str) -> list[str]:
    """The names of the parameters of a camera model."""
    try:
        import pycolmap
    except ImportError as error:
        raise ImportError("cameras need pycolmap: pip install 'superpoint-jax[colmap]'") from error

    models = [name for name in pycolmap.CameraModelId.__members__ if name != "INVALID"]
    if model not in models:
        raise ValueError(f"{where}: {model!r} is no camera model of COLMAP; it has {', '.join(models)}")
    info = pycolmap.Camera.create_from_model_name(0, model, 1.0, 1, 1).params_info
    return [name.strip() for name in info.split(",")]


def _checked(model: str, params: list[str], where: str) -> str:
    """The parameters of a model with commas between them."""
    needed = _parameters(model, where)
    try:
        numbers = [float(param) for param in params]
    except ValueError:
        numbers = [math.nan]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{where}: {','.join(params)!r} is no file and no numbers; {model} needs {','.join(needed)}")
    if len(numbers) != len(needed):
        raise ValueError(f"{where}: {model} has {len(needed)} parameters ({','.join(needed)}), not {len(numbers)}")
    return ",".join(map(repr, numbers))


def write_images(
    path: Path,
    root: Path,
    sizes: Mapping[str, tuple[int, int]],
    cameras: Cameras | None = None,
    intrinsics: Mapping[str, Intrinsics] | None = None,
) -> dict[str, int]:
    """Write images and their cameras into a new COLMAP database, and return the number of each image in it.

    Args:
        path: The database, which must not exist.
        root: The folder that names are relative to.
        sizes: (height, width) of each image in pixels, by name.
        cameras: Which images share a camera.
        intrinsics: What is known of cameras; see `read_intrinsics`.

    Raises:
        ValueError: Images that share a camera differ in size, or no photo of that size has such a camera.
    """
    import pycolmap

    cameras, intrinsics = cameras or Cameras(), intrinsics or {}
    keys = {name: _key(name, cameras, intrinsics.get(name)) for name in sizes}
    _check_sizes(sizes, keys, intrinsics)
    pycolmap.Database.open(path).close()
    groups: dict[Intrinsics | None, list[str]] = {}
    for name in sizes:
        groups.setdefault(intrinsics.get(name), []).append(name)
    for known, names in groups.items():
        mode = "single" if known is not None and known.line else cameras.camera_mode
        options = pycolmap.ImageReaderOptions()
        options.camera_model = cameras.camera_model or DEFAULT_MODEL if known is None else known.model
        options.camera_params = "" if known is None else known.params
        pycolmap.import_images(
            path, root, getattr(pycolmap.CameraMode, mode.upper().replace("-", "_")), image_names=names, options=options
        )
    database = pycolmap.Database.open(path)
    try:
        images = database.read_all_images()
        rigs = {rig.ref_sensor_id.id: rig.rig_id for rig in database.read_all_rigs()}
        shared = {keys[image.name]: image.camera_id for image in images}
        ids = {image.name: image.image_id for image in images}
        for name, (height, width) in sizes.items():
            if name not in ids:  # pycolmap reads fewer formats than Pillow.
                if keys[name] not in shared:
                    camera = _camera(cameras, intrinsics.get(name), width, height)
                    shared[keys[name]] = database.write_camera(camera)
                ids[name] = _write_image(database, name, shared[keys[name]], rigs)
    finally:
        database.close()
    return ids


def _key(name: str, cameras: Cameras, known: Intrinsics | None) -> Hashable:
    """What only the images that share a camera for certain have in common."""
    if known is not None and known.line:
        return known
    return {"single": "", "per-folder": name.rpartition("/")[0]}.get(cameras.camera_mode, name)


def _check_sizes(
    sizes: Mapping[str, tuple[int, int]], keys: Mapping[str, Hashable], intrinsics: Mapping[str, Intrinsics]
) -> None:
    first: dict[Hashable, str] = {}
    for name, (height, width) in sizes.items():
        other, known = first.setdefault(keys[name], name), intrinsics.get(name)
        if sizes[other] != (height, width):
            raise ValueError(
                f"{name} has {width}x{height} px and {other} {sizes[other][1]}x{sizes[other][0]}: they can't share a "
                f"camera. Choose another camera_mode; what is extracted is kept"
            )
        if known is None:
            continue
        if known.size not in (None, (width, height)):
            raise ValueError(
                f"{name} has {width}x{height} px, and the intrinsics in line {known.line} are for "
                f"{'x'.join(map(str, known.size or ()))}; what is extracted is kept"
            )
        if _camera(Cameras(), known, width, height).has_bogus_params(*FOCAL_LENGTHS, MAX_DISTORTION):
            raise ValueError(
                f"{known.model} with {known.params} is no camera for {name} of {width}x{height} px; COLMAP would leave "
                f"it out. What is extracted is kept"
            )


def _camera(cameras: Cameras, known: Intrinsics | None, width: int, height: int) -> Any:
    """The known camera, or the one that pycolmap guesses without EXIF data."""
    import pycolmap

    model = cameras.camera_model or DEFAULT_MODEL if known is None else known.model
    camera = pycolmap.Camera.create_from_model_name(0, model, 1.2 * max(width, height), width, height)
    if known is not None:
        camera.params = [float(param) for param in known.params.split(",")]
        camera.has_prior_focal_length = True
    return camera


def _write_image(database: Any, name: str, camera_id: int, rigs: dict[int, int]) -> int:
    """Write an image of a camera that is in the database, and return the number of the image.

    `rigs` has the number of the rig of each camera; a rig that is written is added.
    """
    import pycolmap

    image = pycolmap.Image(name=name, camera_id=camera_id)
    image.image_id = database.write_image(image)
    # Each image belongs to a frame of a rig, which has its camera.
    if camera_id not in rigs:
        rig = pycolmap.Rig()
        rig.add_ref_sensor(pycolmap.sensor_t(pycolmap.SensorType.CAMERA, camera_id))
        rigs[camera_id] = database.write_rig(rig)
    frame = pycolmap.Frame(rig_id=rigs[camera_id])
    frame.add_data_id(image.data_id)
    database.write_frame(frame)
    return image.image_id
