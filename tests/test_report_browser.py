"""The report in a real browser: it asks for nothing, complains of nothing, and can be read in both themes and on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import vaelid
from report_helpers import small_study, whole

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright (in the extra dev)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt-get install chromium)"),
    pytest.mark.filterwarnings("ignore"),  # of playwright's own event loop
]
ARGUMENTS = (
    *("--no-sandbox", "--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
WIDTHS = (400, 1400)
TOO_WIDE = """() => [...document.querySelectorAll('main *')].filter(element =>
  element.getBoundingClientRect().right > innerWidth + 1 && !element.closest('.scroll, .hidden, .formula'))
  .map(element => element.outerHTML.slice(0, 80))"""
CONTRASTS = """() => {
  const brush = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const channels = color => { brush.fillStyle = color; brush.fillRect(0, 0, 1, 1);
    return [...brush.getImageData(0, 0, 1, 1).data].slice(0, 3).map(v => v / 255); };
  const luminance = color => { const [r, g, b] = channels(color).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const ground = element => { for (let e = element; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'white'; };
  const bad = [];
  for (const element of document.querySelectorAll('body *')) {
    const svg = element.tagName === 'text';
    const words = [...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!words || !element.getClientRects().length || element.closest('svg') && !svg || element.closest('script')) continue;
    const style = getComputedStyle(element), [one, two] = [luminance(svg ? style.fill : style.color), luminance(ground(element))];
    const contrast = (Math.max(one, two) + .05) / (Math.min(one, two) + .05);
    if (contrast < 4.5) bad.push(`${contrast.toFixed(2)} ${element.tagName} ${element.textContent.slice(0, 30)}`);
  }
  return bad;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        running = started.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield running
        running.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    found = {"run": vaelid.report(whole(folder).folder.path, as_is=True)}
    return {**found, "study": vaelid.report(small_study(folder).path, as_is=True)}


def opened(browser: Any, file: Path, theme: str = "light", width: int = 1400) -> tuple[Any, list[str]]:
    """The page, and a list that fills with what the browser complains of or asks for."""
    window = {"width": width, "height": 900}
    page, complaints = browser.new_page(viewport=window, color_scheme=theme, reduced_motion="reduce"), list[str]()

    def asked(request: Any) -> None:
        if request.url.partition("#")[0] != file.as_uri() and not request.url.startswith("data:"):
            complaints.append(f"asked: {request.url[:80]}")

    page.on("console", lambda message: complaints.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", asked)
    page.goto(file.as_uri())
    return page, complaints


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", ["run", "study"])
def test_quiet_and_within_the_window_and_legible(
    browser: Any, reports: dict[str, Path], name: str, theme: str, width: int
) -> None:
    page, complaints = opened(browser, reports[name], theme, width)
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE) == []
    assert page.evaluate(CONTRASTS) == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
    assert dark == (theme == "dark")
    assert page.evaluate("[...document.images].filter(image => !image.naturalWidth).length") == 0
    shown = page.locator(f".chart .{'narrow' if width == 400 else 'wide'} svg").first
    assert shown.bounding_box()["width"] > 250
    page.close()


def test_the_theme_is_a_keypress_away_and_is_remembered(browser: Any, reports: dict[str, Path]) -> None:
    page, complaints = opened(browser, reports["run"])
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    button = page.get_by_role("button", name="Dark theme")
    button.focus()
    page.keyboard.press("Enter")
    dark = page.evaluate(paper)
    assert (light, dark) == ("rgb(255, 255, 255)", "rgb(20, 23, 26)")
    assert page.get_by_role("button", name="Light theme").is_visible()
    page.reload()
    assert page.evaluate(paper) == dark
    page.get_by_role("button", name="Light theme").click()
    assert page.evaluate(paper) == light
    assert complaints == []
    page.close()


def test_the_keyboard_reaches_everything(browser: Any, reports: dict[str, Path]) -> None:
    page, complaints = opened(browser, reports["run"])
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.locator(".skip").bounding_box()["x"] >= 0, "it shows when it has the focus"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.locator("details summary").first.focus()
    page.keyboard.press("Space")
    assert page.evaluate("document.querySelector('details').open")
    page.get_by_role("navigation").get_by_role("link", name="Nine questions").press("Enter")
    playwright.expect(page.locator("#questions-h")).to_be_in_viewport()
    with page.expect_download() as download:
        page.get_by_role("link", name="Numbers (CSV)").first.click()
    assert download.value.suggested_filename.endswith(".csv")
    assert complaints == []
    page.close()


def test_a_study_whose_combinations_diverged_is_quiet_too(browser: Any, tmp_path: Path) -> None:
    file = vaelid.report(small_study(tmp_path, m0="diverged", m1="failed").path, as_is=True)
    page, complaints = opened(browser, file, "dark", 400)
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


def test_the_pdf_is_printed(tmp_path: Path) -> None:
    file = vaelid.report(whole(tmp_path).folder.path, out=tmp_path / "of a run.html", as_is=True, pdf=True)
    printed = file.with_suffix(".pdf").read_bytes()
    assert printed.startswith(b"%PDF")
    assert len(printed) > 50_000
