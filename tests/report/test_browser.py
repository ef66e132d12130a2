"""The pages in a real browser: no error, no request, no overflow, text that can be read, tables that sort."""

import shutil
from pathlib import Path

import pytest

from eval_tenpatch import main as evaluate
from report.__main__ import main
from tests.report.chromium import Browser

SMALLEST = """
(() => {
  const sizes = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
    if (!text || element.closest("script, style") || !element.getClientRects().length) continue;
    const svg = element.closest("svg");
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    sizes.push([scale * parseFloat(getComputedStyle(element).fontSize), text]);
  }
  sizes.sort((one, other) => one[0] - other[0]);
  return [sizes.length, ...sizes[0]];
})()
"""
CONTRAST = """
(() => {
  const luminance = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const back = luminance(getComputedStyle(document.body).backgroundColor);
  const colors = [...document.querySelectorAll("svg text, p, dt, td, th, h3, a")].map(element => {
    const style = getComputedStyle(element);
    return luminance(element.closest("svg") ? style.fill : style.color);
  });
  return Math.min(...colors.map(color => (Math.max(color, back) + 0.05) / (Math.min(color, back) + 0.05)));
})()
"""


@pytest.fixture(scope="module")
def pages(run: Path, thousand: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    copy, long = (Path(shutil.copytree(run, folder / name)) for name in ("run", "a-run-with-" + "a" * 150))
    assert evaluate(["--run-dir", str(copy), str(long), "--device", "cpu"]) == 0
    assert main(["--run-dir", str(copy), "--device", "cpu"]) == 0
    assert "The mean of several networks" in (copy / "report.html").read_text()
    assert main(["--compare", str(copy), str(long), "--out", str(folder / "compare.html")]) == 0
    return {"run": copy / "report.html", "compare": folder / "compare.html", "thousand": thousand / "report.html"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("name", ["run", "compare", "thousand"])
def test_a_page_opens_clean_and_fits(
    browser: Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    browser.open(pages[name], width, scheme)
    problems = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Security.certificateError")
    assert [event for event in browser.events if event["method"] in problems] == []
    requests = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
    assert [url for url in requests if not url.startswith("data:")] == [pages[name].as_uri()]
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    texts, smallest, text = browser.evaluate(SMALLEST)
    assert texts > 50 and smallest >= 11, text
    assert browser.evaluate(CONTRAST) >= 4.5
    columns = browser.evaluate(
        "getComputedStyle(document.querySelector('.charts')).gridTemplateColumns.split(' ').length"
    )
    assert columns == {400: 1, 1200: 3}[width]
    broken = "[...document.images].filter(image => !image.naturalWidth).length"
    assert browser.evaluate(broken) == 0


ROWS = "[...document.querySelectorAll('table.sortable tbody tr')].filter(row => !row.hidden)"


def column(browser: Browser, number: int) -> list[str]:
    cells: list[str] = browser.evaluate(f"{ROWS}.map(row => row.cells[{number}].textContent)")
    return cells


def test_the_table_sorts_by_any_column_both_ways(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["thousand"], 1200)
    before = column(browser, 5)
    assert before == [str(label) for label in range(1000)]
    click = "document.querySelectorAll('table.sortable thead button')[{}].click()"
    browser.evaluate(click.format(2))
    errors = [float(text.rstrip("%")) for text in column(browser, 2)]
    assert errors == sorted(errors, reverse=True) and len(set(errors)) > 5
    browser.evaluate(click.format(2))
    assert [float(text.rstrip("%")) for text in column(browser, 2)] == sorted(errors)
    browser.evaluate(click.format(5))
    assert column(browser, 5) == before[::-1]  # 999 before 1000 - 9: numbers, not text
    browser.evaluate(click.format(6) + ";" + click.format(6))
    assert column(browser, 6) == sorted(column(browser, 6))


def test_the_table_can_be_searched(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["thousand"], 1200)
    search = "(() => {{ const box = document.querySelector('input'); box.value = '{}'; box.dispatchEvent(new Event('input')) }})()"  # fmt: skip # noqa: E501
    browser.evaluate(search.format("N00000123"))
    assert column(browser, 5) == ["123"]
    browser.evaluate(search.format(""))
    assert len(column(browser, 0)) == 1000


def test_without_script_the_table_is_complete(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["thousand"], 1200, script=False)
    assert len(column(browser, 0)) == 1000
    assert browser.evaluate("document.querySelectorAll('input, table button').length") == 0
