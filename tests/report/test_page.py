"""report.html in headless Chromium: it opens, sorts, filters, shows cards, fits phone and paper, and is accessible."""

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewshot.report import write_report

CHROMIUM, DRIVER = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
TAB, ENTER, ESCAPE = "\ue004", "\ue007", "\ue00c"
TIMEOUT_S = 300
AXE = "axe-core@4.10.3"
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed (Debian: chromium, chromium-driver)"
)


class Browser:
    """The few WebDriver commands that these tests need."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        options = {"binary": CHROMIUM, "args": FLAGS}
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": 1000 * TIMEOUT_S},
        }
        self.session = ""
        self.session = "/session/" + self.call("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def call(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + self.session + path, data, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)["value"]

    def open(self, path: Path, width: int = 1200) -> None:
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.call("/url", {"url": path.as_uri()})

    def run(self, script: str) -> Any:
        return self.call("/execute/sync", {"script": script, "args": []})

    def press(self, *keys: str) -> None:
        """Press keys one after another."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call("/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": steps}]})

    def cdp(self, command: str, **params: Any) -> Any:
        return self.call("/goog/cdp/execute", {"cmd": command, "params": params})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("/screenshot", method="GET")))

    def errors(self) -> list[str]:
        log = self.call("/se/log", {"type": "browser"})
        return [line["message"] for line in log if line["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    process = subprocess.Popen([str(DRIVER), f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        opened = _connect(port)
        yield opened
        opened.call("", method="DELETE")
    finally:
        process.terminate()
        process.wait(timeout=30)


def _connect(port: int) -> Browser:
    for _ in range(100):
        try:
            return Browser(port)
        except ConnectionError:
            time.sleep(0.1)
        except urllib.error.URLError:
            time.sleep(0.1)
    raise RuntimeError("chromedriver does not respond")


@pytest.fixture(scope="module")
def report(lasting_maker: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Report with everything the page can show."""
    rng, maker = np.random.default_rng(0), lasting_maker
    maker.add("prototype", 0.55, shots=(1, 5, 20))
    maker.add("ridge", 0.65, shots=(1, 5, 20))
    maker.add("ridge", 0.5, target="cub")
    svm_arrays = {
        "certificate/5shot/kkt_residual": 10 ** rng.normal(-9, 1, 60),
        "embedding_map/points": rng.normal(size=(40, 2)),
        "embedding_map/labels": np.arange(40) % 5,
    }
    maker.add("svm", 0.6, dataset="mini_imagenet", backbone={"name": "resnet12"}, arrays=svm_arrays)
    cxgrad_arrays = {
        "diagnostics/gradient_norm": rng.lognormal(size=(20, 5, 5)),
        "diagnostics/gamma": rng.random((20, 5, 4)),
        "diagnostics/query_accuracy": rng.random((20, 6)),
        "diagnostics/feature_similarity": rng.random((20, 4)),
    }
    place = {"dataset": "mini_imagenet", "backbone": {"name": "conv4_maml", "filters": 48}, "shots": (5,)}
    maker.add("cxgrad", 0.5, **place, arrays=cxgrad_arrays, batch_norm="transductive")
    out = tmp_path_factory.mktemp("page") / "out"
    write_report(maker.suite(), out)
    return out / "report.html"


def test_the_page_is_self_contained(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    sources = re.findall(r'<(?:img|script|link)[^>]*(?:src|href)="([^"]*)"', text)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "@import" not in text
    assert "fetch(" not in text


def test_the_page_shows_every_section(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    sections = set(re.findall(r'<section id="([a-z-]+)"', text))
    assert sections == {
        "results", "accuracy-and-training", "paired-differences", "cross-domain", "inner-loop",
        "solver-certificates", "embedding-map", "episode-sheets", "all-differences", "published",
        "environment", "summary", "classes", "confusion", "calibration",
    }  # fmt: skip


def test_a_partial_report_is_marked_on_the_page(maker: Any, tmp_path: Path) -> None:
    maker.add("ridge")
    maker.add("prototype").evaluation.unlink()
    write_report(maker.suite(), tmp_path / "out", allow_missing=True)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "This report is partial" in text
    assert "snakemake glyphs-conv4-prototype-quick-s0" in text


def test_names_cannot_inject_markup(maker: Any, tmp_path: Path) -> None:
    maker.add("ridge", recipe_name="<script>alert(1)")
    write_report(maker.suite(), tmp_path / "out")
    assert "<script>alert" not in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


@needs_browser
def test_the_page_opens_without_errors(browser: Browser, report: Path) -> None:
    browser.open(report)
    broken = (
        "return [...document.images].filter(i => i.loading = 'eager').filter(i => i.complete && !i.naturalWidth).length"
    )
    assert browser.run(broken) == 0
    assert browser.run("return document.querySelectorAll('table.results tbody tr').length") == 11
    assert browser.errors() == []
    if folder := os.environ.get("FEWSHOT_SCREENSHOTS"):
        _screenshots(browser, report, Path(folder))


def _screenshots(browser: Browser, report: Path, folder: Path) -> None:
    for width in (1200, 390):
        browser.open(report, width)
        browser.screenshot(folder / f"report-{width}.png")
        browser.run("document.querySelectorAll('button.result')[7].click()")
        browser.screenshot(folder / f"card-{width}.png")
        browser.run(
            "document.querySelector('dialog[open]').close();"
            "document.querySelector('#accuracy-and-training').scrollIntoView()"
        )
        time.sleep(1)
        browser.screenshot(folder / f"figures-{width}.png")


SHOWN = "return [...document.querySelectorAll('{} tbody tr')].filter(r => !r.hidden).length"


def click(browser: Browser, table: str, column: str) -> None:
    """Click the heading of a column."""
    browser.run(
        f"[...document.querySelectorAll('{table} thead button')].find(b => b.textContent === '{column}').click()"
    )


@needs_browser
@pytest.mark.parametrize(("table", "column"), [("table.results", "accuracy"), ("table.learners", "5-shot")])
def test_columns_sort_both_ways(browser: Browser, report: Path, table: str, column: str) -> None:
    browser.open(report)
    values = (
        f"return [...document.querySelector('{table}').querySelectorAll('td[data-label=\"{column}\"]')]"
        ".map(c => c.dataset.value).filter(Boolean).map(Number)"
    )
    click(browser, table, column)
    assert browser.run(values) == sorted(browser.run(values))
    click(browser, table, column)
    assert browser.run(values) == sorted(browser.run(values), reverse=True)
    assert browser.run(f"return document.querySelector('{table} th[aria-sort]').ariaSort") == "descending"


@needs_browser
def test_empty_cells_stay_last_when_sorted(browser: Browser, report: Path) -> None:
    browser.open(report)
    click(browser, "table.results", "published")
    values = browser.run("return [...document.querySelectorAll('td[data-label=published]')].map(c => c.dataset.value)")
    assert values[-1] == ""
    assert values[0] != ""


@needs_browser
def test_filters_and_search_narrow_both_tables(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run(
        "const s = document.querySelector('select[name=learner]'); s.value = 'ridge';"
        "s.dispatchEvent(new Event('change'))"
    )
    assert browser.run(SHOWN.format("table.results")) == 5
    assert browser.run(SHOWN.format("table.learners")) == 2
    browser.run(
        "const s = document.querySelector('input[type=search]'); s.value = 'cub'; s.dispatchEvent(new Event('input'))"
    )
    assert browser.run(SHOWN.format("table.results")) == 2
    assert browser.run("return document.querySelector('.count').textContent") == "2 of 11 numbers"


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_no_verdict_is_cut(browser: Browser, report: Path, width: int) -> None:
    browser.open(report, width)
    browser.run("document.querySelector('#long-form').open = true")
    cut = (
        "return [...document.querySelectorAll('.verdict')].filter(v => v.offsetParent"
        " && v.getBoundingClientRect().right > v.closest('.scroll').getBoundingClientRect().right).length"
    )
    assert browser.run(cut) == 0


@needs_browser
def test_a_mark_does_not_shift_the_decimals(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run("document.querySelector('table.learners .mark').textContent = '†'")
    right = (
        "return [...document.querySelector('table.learners').querySelectorAll('td[data-label=\"1-shot\"] .ci')]"
        ".filter(c => c.textContent).map(c => Math.round(c.getBoundingClientRect().right))"
    )
    assert len(set(browser.run(right))) == 1


@needs_browser
def test_a_click_opens_the_protocol_card(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run("document.querySelectorAll('button.result')[0].click()")
    text = browser.run("return document.querySelector('dialog[open]').innerText")
    assert "glyphs-conv4-prototype-quick" in text
    assert "interval over episodes" in text
    browser.run("document.querySelector('dialog[open] button').click()")
    assert browser.run("return document.querySelector('dialog[open]')") is None


@needs_browser
def test_a_card_opens_and_closes_by_keyboard(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run("document.querySelector('button.result').focus()")
    browser.press(ENTER)
    assert browser.run("return document.querySelector('dialog[open]') !== null")
    browser.press(ESCAPE)
    assert browser.run("return document.querySelector('dialog[open]')") is None
    assert browser.run("return document.activeElement.className") == "result"


@needs_browser
def test_a_term_shows_its_meaning_by_keyboard(browser: Browser, report: Path) -> None:
    browser.open(report)
    browser.run("document.querySelector('.term').focus()")
    browser.press(ENTER)
    assert "Glossary" in browser.run("return document.querySelector(':popover-open').innerText")
    browser.press(ESCAPE)
    assert browser.run("return document.querySelector(':popover-open')") is None


@needs_browser
def test_the_tab_key_reaches_links_terms_and_filters_visibly(browser: Browser, report: Path) -> None:
    browser.open(report)
    reached = []
    for _ in range(60):
        browser.press(TAB)
        reached.append(browser.run("const e = document.activeElement; return [e.tagName, e.className, e.type ?? '']"))
        assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"
    kinds = {(tag, name) for tag, name, _ in reached}
    assert {("A", ""), ("BUTTON", "term"), ("SELECT", ""), ("INPUT", ""), ("BUTTON", "result")} <= kinds


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, an accessibility checker."""
    npm, folder = shutil.which("npm"), tmp_path_factory.mktemp("axe")
    if npm is None:
        pytest.skip("npm is not installed (Debian: npm)")
    done = subprocess.run([npm, "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{AXE} cannot be downloaded: {done.stderr.strip()[:200]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        script = archive.extractfile("package/axe.min.js")
        assert script is not None
        return script.read().decode()


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_is_accessible(browser: Browser, report: Path, axe: str, width: int) -> None:
    """Contrast, names, roles and structure by the rules of WCAG 2.2, levels A and AA."""
    browser.open(report, width)
    browser.run("for (const d of document.querySelectorAll('details')) d.open = true")
    browser.run(axe)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    options = json.dumps({"runOnly": tags, "resultTypes": ["violations"]})
    violations = "v => `${v.id}: ${v.nodes.slice(0, 3).map(n => n.target + ' ' + n.failureSummary).join('; ')}`"
    assert browser.run(f"return axe.run({options}).then(r => r.violations.map({violations}))") == []


@needs_browser
def test_the_printed_page_has_no_controls_and_fits_the_paper(browser: Browser, report: Path) -> None:
    browser.open(report, width=1031)  # A4 landscape within its margins
    browser.cdp("Emulation.setEmulatedMedia", media="print")
    shown = "return [...document.querySelectorAll('nav, .filters, .open')].filter(e => e.offsetParent).length"
    try:
        assert browser.run(shown) == 0
        assert browser.run("return document.querySelector('table.learners').offsetParent !== null")
        assert browser.run("return document.documentElement.scrollWidth") <= 1031
    finally:
        browser.cdp("Emulation.setEmulatedMedia", media="")


@needs_browser
@pytest.mark.slow
def test_two_hundred_experiments_load_within_two_seconds(browser: Browser, maker: Any, tmp_path: Path) -> None:
    """Time of the page's thread, which does not depend on what else the machine does."""
    maker.store = tmp_path / "nowhere"
    for number in range(200):
        maker.add("ridge", recipe_name=f"recipe{number}", shots=(5,), history=False, predictions=False)
    write_report(maker.suite(), tmp_path / "out")
    browser.cdp("Performance.disable")
    browser.cdp("Performance.enable", timeDomain="threadTicks")
    browser.open(tmp_path / "out" / "report.html")
    assert browser.run("return document.querySelectorAll('table.learners tbody tr').length") == 200
    metrics = {item["name"]: item["value"] for item in browser.cdp("Performance.getMetrics")["metrics"]}
    assert 0 < metrics["TaskDuration"] < 2


@needs_browser
def test_the_page_fits_a_phone(browser: Browser, report: Path) -> None:
    browser.open(report, width=390)
    browser.run("for (const d of document.querySelectorAll('details')) d.open = true")
    assert browser.run("return document.documentElement.scrollWidth") <= 390
    assert browser.run("return parseFloat(getComputedStyle(document.body).fontSize)") >= 16
    row = "return document.querySelector('table.learners tbody tr').getBoundingClientRect().width"
    assert browser.run(row) <= 390
