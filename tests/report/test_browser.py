"""report.html in a real browser: it renders, logs nothing, loads nothing, fits wide and narrow windows."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edgekit.report import write_report


class Browser:
    """Headless Chromium behind chromedriver, spoken to by plain WebDriver HTTP."""

    def __init__(self, port: int, chromium: str, profile: Path) -> None:
        self._base = f"http://127.0.0.1:{port}"
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
        arguments += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        arguments += ["--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={profile}"]
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": chromium, "args": arguments},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        session = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._base += f"/session/{session['sessionId']}"

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as exc:
            raise AssertionError(f"WebDriver {path}: {exc.read().decode()[:500]}") from exc

    def devtools(self, command: str, **params: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": params})

    def window(self, width: int, height: int, *, dark: bool = False) -> None:
        mobile = width < 600
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, page: Path) -> None:
        self._call("POST", "/url", {"url": page.as_uri()})

    def ask(self, expression: str) -> Any:
        return self._call("POST", "/execute/sync", {"script": f"return {expression}", "args": []})

    def unfold(self) -> None:
        """Open every collapsed table, so that one that is too wide would show."""
        self.ask("document.querySelectorAll('details').forEach(d => { d.open = true })")

    def screenshot(self, file: Path) -> None:
        file.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))

    def console(self) -> list[str]:
        return [f"{e['level']}: {e['message']}" for e in self._call("POST", "/se/log", {"type": "browser"})]

    def requests(self) -> list[str]:
        """URLs that pages asked for since the last call."""
        events = [
            json.loads(e["message"])["message"]
            for e in self._call("POST", "/se/log", {"type": "performance"})
        ]
        return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]

    def close(self) -> None:
        self._call("DELETE", "")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("chromium or chromedriver is not installed (apt-get install chromium chromium-driver)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("browser")
    environment = {
        **os.environ,
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder),
        "XDG_CACHE_HOME": str(folder),
    }
    process = subprocess.Popen(
        [driver, f"--port={port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "started successfully" in line:
                break
        else:
            pytest.fail(f"chromedriver ended with {process.wait()} before it listened")
        opened = Browser(port, chromium, folder / "profile")
        yield opened
        opened.close()
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture
def page(report: dict[str, Any], tmp_path: Path) -> Path:
    report["model"]["name"] = "<script>alert(1)</script>"
    report["units"][0]["name"] = '"><img src=http://127.0.0.1:9/pixel.png onerror=alert(2)>'
    report["warnings"].append("</style></title><script>alert(3)</script>")
    write_report(report, tmp_path)
    return tmp_path / "report.html"


def test_page_logs_nothing_and_requests_only_itself(browser: Browser, page: Path) -> None:
    browser.window(1280, 900)
    browser.requests()
    browser.open(page)
    assert browser.requests() == [page.as_uri()]
    assert browser.console() == []
    assert browser.ask("document.scripts.length") == 0
    assert browser.ask("document.images.length") == 0
    assert browser.ask("document.querySelector('h1').textContent").startswith("<script>alert(1)</script> on")


def test_watching_requests_and_console_would_notice_them(browser: Browser, tmp_path: Path) -> None:
    """The two observers above are not blind: a page that asks for a picture is caught by both."""
    bad = tmp_path / "bad.html"
    bad.write_text("<!doctype html><title>bad</title><img src='http://127.0.0.1:9/pixel.png'>")
    browser.requests()
    browser.open(bad)
    assert "http://127.0.0.1:9/pixel.png" in browser.requests()
    assert any("pixel.png" in line for line in browser.console())


def test_policy_of_the_page_forbids_requests_that_slip_in(browser: Browser, page: Path) -> None:
    """Were escaping ever to fail, the Content-Security-Policy still stops the request and the script."""
    browser.open(page)
    browser.console()
    browser.ask(
        "(() => { const i = new Image(); i.src = 'http://127.0.0.1:9/pixel.png'; document.body.append(i);"
        " const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); return 0 })()"
    )
    assert browser.ask("window.ran === undefined")
    assert any("Content Security Policy" in line for line in browser.console())


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (400, False), (400, True)])
def test_page_fits_the_window_and_draws(
    browser: Browser, page: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    browser.window(width, 900, dark=dark)
    browser.open(page)
    browser.unfold()
    assert browser.ask("document.documentElement.scrollWidth") <= width
    background = browser.ask("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(x) for x in background.removeprefix("rgb(").removesuffix(")").split(","))
    assert (brightness < 150) == dark
    assert browser.ask("document.querySelectorAll('svg.strip').length") == 4
    assert browser.ask("document.querySelector('svg.strip').getBoundingClientRect().height") > 40
    shot = tmp_path / "shot.png"
    browser.screenshot(shot)
    assert struct.unpack(">II", shot.read_bytes()[16:24]) == (width, 900)


def test_summary_is_one_screen(browser: Browser, page: Path) -> None:
    browser.window(1280, 900)
    browser.open(page)
    for part in (".status", ".cards", ".gates"):
        assert browser.ask(f"document.querySelector('{part}').getBoundingClientRect().bottom") <= 900


@pytest.mark.parametrize("which", ["gate_failed", "failed"])
def test_unhappy_reports_open_too(
    browser: Browser, which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    write_report(request.getfixturevalue(which), tmp_path)
    browser.window(400, 900)
    browser.requests()
    browser.open(tmp_path / "report.html")
    browser.unfold()
    assert browser.ask("document.documentElement.scrollWidth") <= 400
    assert browser.requests() == [(tmp_path / "report.html").as_uri()]
    assert browser.console() == []
