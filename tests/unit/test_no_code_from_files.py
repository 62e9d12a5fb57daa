"""Nothing that is read from a file or a socket can bring code with it: no pickle, no eval, no YAML tags, no archives
that are unpacked to where their names lead."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("sidecar", "predictor_service", "scheduler_service", "engine_adapter", "benchmarks", "deploy")
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
CALLS = {
    "eval",
    "exec",
    "compile",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
    "pandas.read_pickle",
}
METHODS = {"extractall", "register_custom_ops_library"}
LOADS = {"np.load", "numpy.load"}


def faults(source: str) -> Iterator[str]:
    """What of a module could run what it reads."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            yield from (f"{node.lineno}: import {name}" for name in sorted(names & MODULES))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"{node.lineno}: from {node.module}"
        elif isinstance(node, ast.Call):
            yield from _of_call(node)


def _of_call(node: ast.Call) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {each.arg: ast.unparse(each.value) for each in node.keywords}
    if name in CALLS or (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
        yield f"{node.lineno}: {name}()"
    if name in LOADS and given.get("allow_pickle") != "False":
        yield f"{node.lineno}: {name}() without allow_pickle=False"
    if given.get("trust_remote_code", "False") != "False" or given.get("shell", "False") != "False":
        yield f"{node.lineno}: {name}(trust_remote_code or shell)"


def test_no_module_of_ours_can_run_what_it_reads() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert len(files) > 300
    found = [f"{path.relative_to(ROOT)}:{fault}" for path in files for fault in faults(path.read_text())]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import a, joblib.x",
        "from dill import load",
        "torch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "yaml.load(text, Loader=L)",
        "archive.extractall(folder)",
        "options.register_custom_ops_library(path)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_search_finds_it(source: str) -> None:
    assert list(faults(source))


def test_the_search_lets_the_harmless_pass() -> None:
    assert not list(faults("np.load(path, allow_pickle=False)\nre.compile(x)\nmodel.eval()\nyaml.safe_load(text)"))
