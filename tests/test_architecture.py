"""The floors, file sizes and forbidden things of docs: read from the source."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "cm3leon_jax"
FLOORS = (
    {"vocab", "cpu", "devices", "sharding", "storage"},
    {"documents", "models", "scenes"},
    {"tokenizers", "upscalers"},
    {"embedders"},  # text goes through a tokenizer before it becomes a vector
    {"retrieval", "train", "decoding", "convert", "tasks"},
    {"data"},
    {"evals", "plan", "reports", "asks"},
    {"api"},
    {"serve"},
    {"jobs"},
    {"main"},
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
MAX_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_OUTLINE_LINES = 120  # docstring included
OUTLINES = {"loop", "quickstart"}  # a run from its start to its end, in one place
SHORT = 8
FORBIDDEN_NAMES = {"eval", "exec"}
FORBIDDEN_MODULES = {"pickle", "dill", "marshal", "shelve"}
FORBIDDEN_ARGUMENTS = {"allow_pickle", "trust_remote_code"}
SOURCES = sorted(PACKAGE.rglob("*.py"))
PYTHON_FILES = [
    path
    for folder in ("cm3leon_jax", "configs", "tests", "benchmarks", "launch")
    for path in sorted((ROOT / folder).rglob("*.py"))
]


def _name(path):
    return str(path.relative_to(ROOT))


def _room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_rooms(path):
    """The rooms that a file imports; relative imports and `configs` are refused."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{_name(path)}:{node.lineno}: a relative import"
            names = [node.module]
            if node.module == "cm3leon_jax":
                names = [f"cm3leon_jax.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            assert name.split(".")[0] != "configs", f"{_name(path)} imports configs"
            if name.startswith("cm3leon_jax."):
                yield name.split(".")[1]


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_imports_point_down(path):
    here = _room(path)
    if here == "__init__":
        return
    for there in _imported_rooms(path):
        assert there == here or LEVEL[there] < LEVEL[here], (
            f"{_name(path)}: {here} (floor {LEVEL[here]}) imports {there}"
            f" (floor {LEVEL[there]})"
        )


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_file_is_short_and_says_what_it_is_for(path):
    text = path.read_text()
    assert text.count("\n") <= MAX_LINES, f"{_name(path)}: split it"
    assert ast.get_docstring(ast.parse(text)), f"{_name(path)}: no module docstring"
    assert path.stem not in ("utils", "common", "misc", "helpers")


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_what_others_may_use_says_what_it_does(path):
    kinds = (ast.FunctionDef, ast.ClassDef)
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, kinds) or node.name.startswith("_"):
            continue
        # A function of few lines inside another one says it by its name.
        is_short = node.end_lineno - node.lineno < SHORT and node.col_offset > 0
        assert is_short or ast.get_docstring(node), f"{_name(path)}:{node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_functions_fit_a_screen(path):
    limit = MAX_OUTLINE_LINES if path.stem in OUTLINES else MAX_FUNCTION_LINES
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= limit, f"{_name(path)}:{node.lineno}: split {node.name}"


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_nothing_read_from_disk_is_executed(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "id", None)
            assert called not in FORBIDDEN_NAMES, f"{_name(path)}:{node.lineno}"
            given = {keyword.arg for keyword in node.keywords}
            assert not given & FORBIDDEN_ARGUMENTS, f"{_name(path)}:{node.lineno}"
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            assert not names & FORBIDDEN_MODULES, f"{_name(path)}:{node.lineno}"
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.module.split(".")[0] not in FORBIDDEN_MODULES


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_config_stops_at_jobs_and_hides_no_default(path):
    text = path.read_text()
    assert "config.get(" not in text, f"{_name(path)}: a default that no file shows"
    if _room(path) not in ("jobs", "main"):
        assert "ml_collections" not in text, f"{_name(path)}: pass plain arguments"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.py")), ids=_name)
def test_configs_import_only_ml_collections_and_each_other(path):
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module]
        for module in modules:
            assert module.split(".")[0] in ("ml_collections", "configs", "typing")


@pytest.mark.parametrize(
    "modules", ["cm3leon_jax.vocab", "cm3leon_jax.documents", "cm3leon_jax.scenes"]
)
def test_data_workers_never_load_jax(modules):
    room = PACKAGE / modules.split(".")[1]
    names = [modules]
    if room.is_dir():
        names += [f"{modules}.{p.stem}" for p in room.glob("*.py") if p.stem[0] != "_"]
    code = (
        f"import sys, importlib\nfor n in {names!r}: importlib.import_module(n)\n"
        "assert 'jax' not in sys.modules, 'jax was imported'"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False
    )
    assert found.returncode == 0, found.stderr.decode()
