"""What pyproject.toml declares, the lock pins, and the code imports: the same packages."""

import ast
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, TOOLS = PYPROJECT["project"], PYPROJECT["tool"]
PACKAGES = [name for name in TOOLS["setuptools"]["packages"] if "." not in name]
CODE = [*PACKAGES, "scripts", "examples", "train.py", "eval_tenpatch.py"]
IMPORTED_AS = {"nvidia-dali-cuda130": "nvidia", "pillow": "PIL", "scikit-learn": "sklearn"}
WITHIN = {"torch.utils.tensorboard": "tensorboard"}  # a torch module that is only a door to another package
OURS = {*PACKAGES, "train", "eval_tenpatch", "own_network"}
PEERS = {"ffcv", "spdl", "cv2"}  # what only the loader benchmark compares with: requirements-peers.txt
EXAMPLES = {"accelerate"}  # what one example is about; its docstring says how to install it


def lock(name: str) -> dict[str, Version]:
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    pairs = [line.split("==") for line in lines if line]
    return {package.lower(): Version(version) for package, version in pairs}


def imported_packages() -> set[str]:
    """Top-level third-party modules that the code (not the tests) imports."""
    modules: set[str] = set()
    for name in CODE:
        path = ROOT / name
        for file in [path] if path.suffix else path.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                    modules.add(WITHIN.get(node.module, node.module.split(".")[0]))
    return modules - set(sys.stdlib_module_names) - OURS


def test_every_declared_package_is_imported_and_every_imported_one_declared() -> None:
    extras = [texts for extra, texts in PROJECT["optional-dependencies"].items() if extra != "dev"]
    declared = [Requirement(text).name for text in sum(extras, PROJECT["dependencies"])]
    assert {IMPORTED_AS.get(name, name) for name in declared} == imported_packages() - PEERS - EXAMPLES


def test_the_lock_pins_every_declared_package_within_its_bound() -> None:
    pinned = lock("requirements.txt")
    requirements = [Requirement(text) for text in PROJECT["dependencies"]]
    requirements += [Requirement(text) for extra in PROJECT["optional-dependencies"].values() for text in extra]
    assert len(requirements) > 15
    for requirement in requirements:
        assert requirement.specifier.contains(pinned[requirement.name.lower()]), requirement


def test_cuda_12_replaces_exactly_the_packages_marked_cuda13() -> None:
    def generic(package: str) -> str:
        return package.replace("cuda130", "cuda").replace("cuda120", "cuda").replace("-cu13", "").replace("-cu12", "")

    marked = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.endswith("# cuda13")]
    thirteen = {generic(line.split("==")[0]) for line in marked}
    assert thirteen == {generic(package) for package in lock("requirements-cuda12.txt")}
    assert "nvidia-dali-cuda" in thirteen and len(thirteen) == 6
