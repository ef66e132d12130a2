"""README.md and docs/: every relative link leads somewhere, and marked blocks do what they say, as typed.

A block below `<!-- test: NAME -->` is run by the test of that name here, in a folder where the checkout's files lie.
"""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "benchmarks").glob("*.md"))
LINK = re.compile(r"\]\(([^)#\s]+)(?:#([^)\s]+))?\)")
MARKED = re.compile(r"^<!-- test: ([\w -]+) -->\n```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
README_BYTES = 12_000


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


def marked_blocks() -> dict[str, tuple[str, str]]:
    blocks = [match for page in PAGES for match in MARKED.findall(page.read_text())]
    assert len({name for name, _, _ in blocks}) == len(blocks)
    return {name: (language, text) for name, language, text in blocks}


def checkout(folder: Path) -> Path:
    """A folder with links to all that the checkout holds, but what a user makes there (build, runs, shards)."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    names = {Path(name).parts[0] for name in tracked} or {path.name for path in ROOT.iterdir()}
    folder.mkdir()
    for name in (names | {".venv"}) - {"build", "runs", "shards"}:
        (folder / name).symlink_to(ROOT / name)
    return folder


def run_block(name: str, folder: Path) -> str:
    """Run the block in `folder`; what it prints. Its `make` takes the set-up as done."""
    language, text = marked_blocks()[name]
    if language == "python":
        command = [str(folder / ".venv" / "bin" / "python"), "-c", text]
    else:
        command = ["bash", "-euc", 'make() { command make --no-print-directory -o setup "$@"; }\n' + text]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout


TESTED = {"own pictures", "loader", "follow"}


def test_every_marked_block_is_run() -> None:
    assert set(marked_blocks()) == TESTED


@pytest.mark.slow
def test_own_pictures_from_folder_to_prediction(sample_photos: Path, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout")
    shutil.copytree(sample_photos, folder / "photos")
    shutil.copy(sample_photos / "china" / "china-00.jpg", folder / "picture.jpg")
    printed = run_block("own pictures", folder)
    assert "picture.jpg" in printed and "china" in printed
    held_out = json.loads((folder / "shards" / "val" / "manifest.json").read_text())["samples"]
    assert 1 <= held_out <= 20
    assert json.loads((folder / "runs" / "mine" / "report.json").read_text())["images"] == held_out
    assert (folder / "runs" / "mine" / "report.html").stat().st_size > 10_000
    assert (folder / "mine.safetensors").exists()

    batches = run_block("loader", folder).splitlines()
    assert len(batches) == (40 - held_out) // 16
    assert all(line.startswith("torch.Size([16, 3, 224, 224]) torch.float32 tensor([") for line in batches)

    (folder / "runs" / "first").symlink_to(folder / "runs" / "mine")
    assert len(run_block("follow", folder).splitlines()) == 10
