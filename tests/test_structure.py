"""The structure of the package: imports run one way, importing is light, every public name has a docstring."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import superpoint_jax

PACKAGE = Path(superpoint_jax.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))

ROOMS = [
    {"config", "features", "files", "hub", "lanes", "sharding", "spreading", "top_k"},
    {
        "model",
        "openvino",
        "detection",
        "description",
        "refinement",
        "enlargement",
        "regions",
        "processing",
        "matching",
        "geometry",
    },
    {"estimation", "example", "stitching", "torch_lightglue", "tracking", "track_files", "video"},
    {"extraction", "weights"},
    {"own_keypoints", "photos", "records", "lightglue"},
    {"huggingface", "training", "bulk", "evaluation", "visualization", "export"},
    {"app", "reconstruction"},
    {"cli"},
    {"__main__"},
]
"""The modules and folders of the package, called rooms here, in order. A room may import earlier rooms and rooms of its
own line, but no later room."""

HEAVY = {
    "torch", "cv2", "h5py", "matplotlib", "ray", "transformers", "optax", "orbax", "pycolmap", "gradio", "onnx",
    "jax2onnx", "openvino",
}  # fmt: skip


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """The full name of every module that a file imports, including imports inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            # In `from superpoint_jax import model`, `model` may be a module, so its full name is included.
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def ours(path: Path) -> set[str]:
    """The rooms of this package that a file imports."""
    rooms = {room_of(module) for module in MODULES}
    parts = (name.split(".") for name in imports(path))
    return {names[1] for names in parts if names[0] == "superpoint_jax" and names[1:] and names[1] in rooms}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    if path == PACKAGE / "__init__.py":
        return  # It collects the public names, so it imports everything.
    level = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}
    room = room_of(path)
    assert room in level, f"{room} has no place in the order of ROOMS: give it one"
    later = {other for other in ours(path) if level[other] > level[room]}
    assert not later, f"{path.relative_to(PACKAGE)} imports {later}"


def test_no_two_rooms_import_each_other():
    """Rooms of one line have an order too."""
    needs = {room: set() for room in map(room_of, MODULES) if room != "__init__"}
    for path in MODULES:
        if room_of(path) != "__init__":
            needs[room_of(path)] |= ours(path) - {room_of(path)}
    while needs:
        free = {room for room, others in needs.items() if not others & needs.keys()}
        assert free, f"these import each other in a circle: {needs}"
        for room in free:
            del needs[room]


def test_nothing_imports_what_stands_around_the_package():
    outside = {"convert", "benchmarks", "tests", "examples"}
    for path in MODULES:
        assert not {name.split(".")[0] for name in imports(path)} & outside, path


def test_only_the_shelf_imports_the_hugging_face_door():
    for path in MODULES:
        if room_of(path) not in ("huggingface", "__init__"):
            assert "huggingface" not in ours(path), path


def run(program: str) -> str:
    """The output of a program in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout


def test_import_loads_nothing_heavy():
    program = """
import json, sys
import jax, flax.nnx  # They load optax in any case.
before = set(sys.modules)
import superpoint_jax
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""
    assert not set(json.loads(run(program))) & HEAVY


@pytest.mark.slow
def test_import_costs_at_most_100_ms_over_jax_and_flax():
    program = """
import time
import jax, flax.nnx
start = time.process_time()
import superpoint_jax
print(time.process_time() - start)
"""
    run(program)  # The first run compiles the bytecode.
    # Processor time, because other work on the machine has little effect on it; the minimum, because it only adds time.
    assert min(float(run(program)) for _ in range(5)) <= 0.1


def public_definitions(path: Path) -> Iterator[tuple[str, ast.AST]]:
    """The public functions and classes of a module, and the public methods of public classes."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                methods = (child for child in node.body if isinstance(child, ast.FunctionDef))
                yield from ((f"{node.name}.{m.name}", m) for m in methods if not m.name.startswith("_"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_and_public_definition_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text())), path
    bare = [name for name, node in public_definitions(path) if not ast.get_docstring(node)]
    assert not bare, f"without a docstring: {', '.join(bare)}"
