"""README.md and docs/: links lead somewhere, code blocks do what they say, as typed, and options that are named exist.

A block without a language is commands, `text` is what something prints. A block below `<!-- test: NAME -->` is run as a
whole by the test of that name; of the others each command is run by itself, beside small data and runs made by hand,
training with a few small steps. What cannot be run here is in `NOT_RUN`, with the reason: a new command must run, or
stand there.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eval_tenpatch import main as evaluate
from sharding import PackOptions, pack
from tests.handmade import make_run, pack_splits
from tests.sharding.test_source import IDS, kaggle, kit, parquet, pictures, tar_of, train_tar

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "benchmarks").glob("*.md"))
RUN_PAGES = [ROOT / "README.md", *(page for page in PAGES if page.parent.name == "docs")]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
BLOCK = re.compile(r"^(?:<!-- test: ([\w -]+) -->\n)?```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
README_BYTES = 12_000
SMALL = {"TRAIN_OPTIONS": "--width 0.0625 --batch-size 8 --max-steps 2", "PACK_OPTIONS": "--workers 1"}
NOT_RUN = {
    "make demo": "trains for a minute; tests/test_road.py goes the same road with fewer steps",
    "make test": "these tests",
    "make setup": "installs; `.ci/run` begins with it",
    "make gpu-check": "needs a GPU; rehearsed by tests/benchmarks/test_gpu_check.py",
    "make shards SRC=/data/imagenet": "needs ImageNet and a disk of that name",
    "make train SHARDS=/local/shards": "needs the shards of the command above",
    "nvidia-smi": "needs a GPU",
    "apt-get": "installs system packages",
    "torchrun": "processes on several GPUs; tests/training/test_torchrun.py runs torchrun",
    "export TORCH_DISABLE_SHARE": "for the torchrun below it",
    "export NOTE": "for the command below it",
    "make ablations": "ten trainings; tests/test_ablations.py has the script and the table",
    ".venv/bin/tensorboard": "serves until it is stopped",
    "tail -f": "follows until it is stopped",
    ".venv/bin/python -m sharding copy s3://": "needs a network; tests/sharding/test_copying.py has a store",
}
ELSEWHERE = {"import json, sys, numpy, safetensors": "tests/model/test_export.py"}  # blocks of Python that run there
LEAVES = {  # what a command must leave, newer than it was
    "make shards .*OUT=(?P<run>\\S+) .*--split test": "{run}/test/manifest.json",
    "make shards .*OUT=(?P<run>\\S+)": "{run}/train/manifest.json",
    "scripts/digits.py (?P<run>\\S+)": "{run}/val/4/digit-0004.jpg",
    "(make train|train.py).*(RUN=|--run-dir )(?P<run>\\S+)": "{run}/checkpoints/last.pt",
    "make eval RUN=(?P<run>\\S+)": "{run}/report.json",
    "eval_tenpatch.py --run-dir (?P<run>\\S+) runs/b": "{run}/average/report.json",
    "eval_tenpatch.py --run-dir (?P<run>\\S+)$": "{run}/report.json",
    "(make report RUN=|-m report --run-dir )(?P<run>\\S+)": "{run}/report.html",
    "-m report --compare .*--out (?P<run>\\S+)": "{run}",
    "-m model export \\S+ (?P<run>\\S+)": "{run}",
}


def anchors(page: Path) -> set[str]:
    """The names by which the headings of a page can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        assert "://" not in target, f"{page.name} links to {target}"
        file = page.parent / target
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}#{anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        links = [(page.parent / target).resolve() for target, _ in LINK.findall(page.read_text())]
        waiting += [link for link in links if link.suffix == ".md" and link not in reached]
    assert set(PAGES) <= reached and len(PAGES) >= 11


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= README_BYTES


BLOCKS = [match for page in RUN_PAGES for match in BLOCK.findall(page.read_text())]
MARKED = {name: (language, text) for name, language, text in BLOCKS if name}


def commands() -> list[str]:
    """The commands of the blocks that are not run as a whole, each once, without the remark behind it."""
    texts = [text.replace("\\\n", " ") for name, language, text in BLOCKS if not name and not language]
    lines = [re.split(r"(?:^|\s+)# ", line)[0].strip() for text in texts for line in text.splitlines()]
    return list(dict.fromkeys(" ".join(line.split()) for line in lines if line))


def not_run(command: str) -> bool:
    return command.startswith(tuple(NOT_RUN))


RUN = [command for command in commands() if not not_run(command)]


def test_every_block_is_run_or_says_why_not() -> None:
    assert set(MARKED) == {"own pictures", "loader", "follow"} and len(RUN) >= 20
    python = [text for name, language, text in BLOCKS if language == "python" and not name]
    assert len(python) == len(ELSEWHERE) and all(text.startswith(tuple(ELSEWHERE)) for text in python)
    assert {language for _, language, _ in BLOCKS} == {"", "python", "text"}
    for beginning in NOT_RUN:
        assert any(command.startswith(beginning) for command in commands()), f"no command begins with {beginning}"


def checkout(folder: Path, python: Path) -> Path:
    """A folder with links to all that the checkout holds, but what a user makes there (build, runs, shards)."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    names = {Path(name).parts[0] for name in tracked} or {path.name for path in ROOT.iterdir()}
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "python").symlink_to(python)
    for name in names - {"build", "runs", "shards", ".venv"}:
        (folder / name).symlink_to(ROOT / name)
    return folder


def run(text: str, folder: Path, language: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run commands or Python in `folder`, on the CPU; they must end well. Their `make` takes the set-up as done."""
    if language == "python":
        command = [str(folder / ".venv" / "bin" / "python"), "-c", text]
    else:
        command = ["bash", "-euc", 'make() { command make --no-print-directory -o setup "$@"; }\n' + text]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    variables = kept | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} | environment
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.slow
def test_own_pictures_from_folder_to_prediction(python: Path, sample_photos: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout", python)
    shutil.copytree(sample_photos, folder / "photos")
    shutil.copy(sample_photos / "china" / "china-00.jpg", folder / "picture.jpg")
    printed = run(MARKED["own pictures"][1], folder).stdout
    assert "picture.jpg" in printed and "china" in printed
    held_out = json.loads((folder / "shards" / "val" / "manifest.json").read_text())["samples"]
    assert 1 <= held_out <= 20
    assert json.loads((folder / "runs" / "mine" / "report.json").read_text())["images"] == held_out
    assert (folder / "runs" / "mine" / "report.html").stat().st_size > 10_000
    assert (folder / "mine.safetensors").exists()

    batches = run(MARKED["loader"][1], folder, "python").stdout.splitlines()
    assert len(batches) == (40 - held_out) // 16
    assert all(line.startswith("torch.Size([16, 3, 224, 224]) torch.float32 tensor([") for line in batches)

    (folder / "runs" / "first").symlink_to(folder / "runs" / "mine")
    assert len(run(MARKED["follow"][1], folder).stdout.splitlines()) == 10


def write_sources(folder: Path) -> None:
    """What the pages pack: the same pictures of three classes in every form."""
    random, order = np.random.default_rng(5), list(IDS)
    for split, each in (("train", 4), ("val", 2)):
        for wnid in IDS:
            (folder / "photos-in-splits" / split / wnid).mkdir(parents=True)
            for number in range(each):
                pixels = random.integers(0, 256, (33, 40, 3), np.uint8).repeat(8, axis=0).repeat(8, axis=1)
                Image.fromarray(pixels).save(folder / "photos-in-splits" / split / wnid / f"{wnid}_{number}.JPEG")
    splits = folder / "photos-in-splits"
    train, val = pictures(splits / "train"), pictures(splits / "val")
    shutil.copytree(splits / "train", folder / "photos")
    shutil.copytree(splits, folder / "build" / "digits")
    for name in ("flat", "downloads", "ilsvrc2010", "patch_images", "huggingface"):
        (folder / name).mkdir()
    for path in train:
        shutil.copy(path, folder / "flat")
    shutil.copy(train[0], folder / "patch_images")
    truth = "".join(f"{IDS[path.parent.name]}\n" for path in val)
    for source, year in (("downloads", 2012), ("ilsvrc2010", 2010)):
        train_tar(splits, folder / source / f"ILSVRC{year}_img_train.tar")
        names = [f"ILSVRC{year}_val_{number + 1:08d}.JPEG" for number in range(len(val))]
        (folder / source / f"ILSVRC{year}_img_val.tar").write_bytes(tar_of(val, names))
        (folder / source / f"ILSVRC{year}_validation_ground_truth.txt").write_text(truth)
    kit(folder / "downloads", 2012)
    kit(folder, 2010)
    (folder / "test.tar").write_bytes(tar_of(val, [f"ILSVRC2010_test_{n + 1:08d}.JPEG" for n in range(len(val))]))
    (folder / "test_labels.txt").write_text(truth)
    kaggle(splits, folder / "kaggle")
    for split, paths in (("train", train), ("validation", val)):
        labels = [order.index(path.parent.name) for path in paths]
        parquet(paths, folder / "huggingface" / f"{split}-00000-of-00001.parquet", labels)


@pytest.fixture(scope="module")
def desk(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout beside which lie sources, shards of three splits, and evaluated runs."""
    folder = checkout(tmp_path_factory.mktemp("desk") / "checkout", python)
    write_sources(folder)
    data = pack_splits(tmp_path_factory.mktemp("data"), classes=3, train=16, val=4, encoding="jpeg")
    table = data / "train" / "manifest.json"
    pack(PackOptions(source=data.parent / "source" / "val", out=data, split="test", classes=table, workers=1))
    (folder / "shards").symlink_to(data)
    first = make_run(folder / "runs" / "first", data)
    assert evaluate(["--run-dir", str(first), "--device", "cpu"]) == 0
    for name in ("second", "zero", "a", "b", "c", "no-norms"):
        shutil.copytree(first, folder / "runs" / name)
    for name in ("cat.jpg", "picture.jpg"):
        shutil.copy(pictures(folder / "photos")[0], folder / name)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("command", RUN)
def test_a_command_does_what_it_says(desk: Path, command: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    shutil.copytree(desk, folder, symlinks=True)
    match, leaves = next(
        ((match, leaves) for pattern, leaves in LEAVES.items() if (match := re.search(pattern, command))), (None, "")
    )
    target = folder / leaves.format(**match.groupdict()) if match else None
    if "make shards" in command:
        (folder / "shards").unlink()
    if target is not None and target.exists():  # a training would go on, an evaluation write the same again
        shutil.rmtree(target.parents[1]) if target.suffix == ".pt" else target.unlink()
    done = run(command, folder, **SMALL)
    assert target.is_file() if target is not None else done.stdout + done.stderr


MAKEFILE = (ROOT / "Makefile").read_text()
PROGRAMS = (
    "train.py", "eval_tenpatch.py", "scripts/ablations.py", "scripts/digits.py", "-m report", "-m model export",
    "-m sharding pack", "-m sharding verify", "-m sharding show", "-m sharding copy", "-m benchmarks.gpu_check",
    "-m benchmarks",
)  # fmt: skip
PROGRAM = re.compile(rf"python ({'|'.join(map(re.escape, PROGRAMS))})(?= |$)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


@pytest.fixture(scope="module")
def known(python: Path) -> dict[str, set[str]]:
    """The options of each program of ours, by its --help."""
    helps = {}
    for program in PROGRAMS:
        command = [python, *program.split(), "--help"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        helps[program] = set(OPTION.findall(done.stdout))
    assert all(helps.values())
    return helps


def typed_options(command: str) -> Iterator[tuple[str, list[str]]]:
    """(program of ours, options given to it) of a command; of `make TARGET ARGS='…'` the program behind the target."""
    text = re.sub(r"\S*torchrun .*?(?=\w+\.py)", "python ", command)
    if command.startswith("make "):
        words = shlex.split(command)[1:]
        target = next(word for word in words if "=" not in word and word != "…")
        rule = re.search(rf"^{target}:.*\n((?:\t.*\n|ifeq.*\n)*)", MAKEFILE, re.MULTILINE)
        assert rule, f"{command}: no target {target}"
        given = dict(word.split("=", 1) for word in words if "=" in word)
        assert all(re.search(rf"\b{name}\b", MAKEFILE) for name in given), f"{command}: a variable that make knows not"
        behind = PROGRAM.search(
            rule[1].replace("$(LAUNCH) ", "python ").replace("scripts/ablations.slurm", "python train.py")
        )
        text = f"{behind[0]} {given.get('ARGS', '')}" if behind else ""
    for match in PROGRAM.finditer(text):
        yield match[1], OPTION.findall(re.split(r" [|>&;] ?", text[match.end() :])[0])


@pytest.mark.slow
def test_options_and_targets_that_are_named_exist(known: dict[str, set[str]]) -> None:
    spans = [
        span for page in (*RUN_PAGES, ROOT / "CONTRIBUTING.md") for span in re.findall(r"`([^`\n]+)`", page.read_text())
    ]
    typed = [span for span in spans if re.match(r"make \w|\S*torchrun |\S*python ", span)]
    typed += re.findall(r"## (make [^#\n]*)$", MAKEFILE, re.MULTILINE)  # the examples of make help
    found = [(command, *pair) for command in [*commands(), *typed] for pair in typed_options(command)]
    assert len(found) >= 40 and {program for _, program, _ in found} >= {"train.py", "eval_tenpatch.py", "-m report"}
    for command, program, options in found:
        assert set(options) <= known[program], f"{command}: {program} knows not all of its options"
    named = {option for span in spans if not re.match(r"\S*torchrun |sbatch ", span) for option in OPTION.findall(span)}
    assert len(named) >= 40 and named <= set().union(*known.values()), named - set().union(*known.values())
