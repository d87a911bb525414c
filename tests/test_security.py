"""Trust: what the package's source never does, read from the source."""

import ast
import pathlib
import re

import pytest

from cm3leon_jax.jobs import folder
from configs import pretrain

ROOT = pathlib.Path(__file__).parent.parent
FILES = [
    path
    for name in ("cm3leon_jax", "configs", "launch", "benchmarks")
    for path in sorted((ROOT / name).rglob("*.py"))
]
# What runs whatever a file says.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
NAMES = {"eval", "exec", "compile", "__import__"}
CALLS = {
    "extractall": "archives are read as streams",
    "extract": "archives are read as streams",
    "unpack_archive": "archives are read as streams",
    "read_pickle": "nothing is unpickled",
    "unsafe_load": "nothing is made of what a YAML file names",
    "full_load": "nothing is made of what a YAML file names",
    "system": "no shell",
    "popen": "no shell",
    "urlopen": "training reads local paths and named buckets",
    "urlretrieve": "training reads local paths and named buckets",
}
MODULES_OF_THE_NET = {"requests", "httpx", "aiohttp", "urllib3"}
# argument -> values that are refused; None: any
ARGUMENTS = {
    "allow_pickle": None,
    "trust_remote_code": None,
    "shell": (True,),
    "weights_only": (False,),
    "share": (True,),
}
ASSIGNED = {"MAX_IMAGE_PIXELS": (None,), "LOAD_TRUNCATED_IMAGES": (True,)}


def offences(source):
    """Lines of a source that do what is never done, with the reason."""
    found = []
    for node in ast.walk(ast.parse(source)):
        for reason in _offences(node):
            found.append(f"line {node.lineno}: {reason}")
    return found


def _offences(node):
    if isinstance(node, ast.Import):
        names = {alias.name.split(".")[0] for alias in node.names}
        yield from names & (MODULES | MODULES_OF_THE_NET)
    elif isinstance(node, ast.ImportFrom):
        yield from {(node.module or "").split(".")[0]} & (MODULES | MODULES_OF_THE_NET)
    elif isinstance(node, ast.Call):
        yield from _offences_of_call(node)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            name = getattr(target, "attr", getattr(target, "id", ""))
            value = getattr(node.value, "value", "?")
            if name in ASSIGNED and value in ASSIGNED[name]:
                yield f"{name} = {value}"


def _offences_of_call(node):
    name = getattr(node.func, "id", getattr(node.func, "attr", ""))
    owner = getattr(getattr(node.func, "value", None), "id", "")
    if isinstance(node.func, ast.Name) and name in NAMES:
        yield name
    if isinstance(node.func, ast.Attribute) and name in CALLS:
        yield f"{name}: {CALLS[name]}"
    if (owner, name) == ("yaml", "load"):
        yield "yaml.load: use safe_load"
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    if (owner, name) == ("torch", "load") and "weights_only" not in given:
        yield "torch.load without weights_only=True"
    for argument, refused in ARGUMENTS.items():
        value = getattr(given.get(argument), "value", "?")
        if argument in given and (refused is None or value in refused):
            yield f"{argument}={value}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_source_executes_extracts_and_fetches_nothing(path):
    assert not offences(path.read_text()), path


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec(text)",
        "__import__(name)",
        "yaml.load(file)",
        "np.load(path, allow_pickle=True)",
        "model = AutoModel.from_pretrained(name, trust_remote_code=True)",
        "tarfile.open(path).extractall(folder)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "subprocess.run(text, shell=True)",
        "os.system(text)",
        "PIL.Image.MAX_IMAGE_PIXELS = None",
        "ImageFile.LOAD_TRUNCATED_IMAGES = True",
        "import requests",
        "urllib.request.urlopen(url)",
        "demo.launch(share=True)",
    ],
)
def test_the_reader_of_sources_sees(source):
    assert offences(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, weights_only=True)",
        "yaml.safe_load(file)",
        "model.eval()",
        "re.compile('a')",
        "subprocess.run([command])",
        "lowered.compile()",
    ],
)
def test_the_reader_of_sources_lets_pass(source):
    assert not offences(source)


def test_shell_scripts_execute_no_text_and_fetch_from_google_alone():
    for path in sorted((ROOT / "launch").rglob("*.sh")):
        code = [
            x for x in path.read_text().splitlines() if not x.lstrip().startswith("#")
        ]
        text = "\n".join(code)
        assert not re.search(r"\beval\b|\|\s*(sudo )?(ba)?sh\b", text), path
        addresses = re.findall(r"https?://[^/\s]+", text)
        allowed = {
            "http://metadata.google.internal",
            "https://packages.cloud.google.com",
            "https://www.googleapis.com",
        }
        assert set(addresses) <= allowed, path


def test_secrets_are_not_written_with_a_config(tmp_path):
    config = pretrain.get_config("debug")
    config.api_token = "abc"
    config.watch.wandb_api_key = "def"
    config.nested = {"password": "ghi", "secrets": ("jkl",), "empty_secret": ""}
    folder.start(config, str(tmp_path))
    text = (tmp_path / "config.json").read_text()
    assert not re.search("abc|def|ghi|jkl", text)
    assert text.count(folder.REDACTED) == 4
    # Neither a name that only looks like one, nor an empty value, is touched.
    assert '"empty_secret": ""' in text and '"image_tokenizer"' not in text
    folder.start(config, str(tmp_path))  # the same config is the same folder's
    config.api_token = "other"  # a secret may be renewed
    folder.start(config, str(tmp_path))
