"""report.html and the text summary: what they say, and that nothing in a report becomes markup."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest

from edgekit.report import render_html, summary_lines, write_report
from edgekit.report.layers import lowest_sqnr
from edgekit.report.validate import validate_report

HOSTILE = "<script>alert(1)</script>'\"&<img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Tags with their attributes, and the text of each section."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {}
        self._section = "head"
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("section", "header"):
            self._section = dict(attrs).get("id") or tag

    def handle_data(self, data: str) -> None:
        self.sections[self._section] = self.sections.get(self._section, "") + " " + data.strip()

    def of(self, section: str) -> str:
        return re.sub(r"\s+", " ", self.sections[section])


def poison(value: Any) -> Any:
    """The same report with a hostile text in place of each free text, in keys of free mappings too."""
    if isinstance(value, str):
        return value if value in ("", ">=", "<=") else value + HOSTILE
    if isinstance(value, list):
        return [poison(v) for v in value]
    if isinstance(value, dict):
        return {k: poison(v) for k, v in value.items()}
    return value


def test_no_text_of_a_report_becomes_markup(gate_failed: dict[str, Any]) -> None:
    clean = Page(render_html(gate_failed))
    bad = poison(gate_failed)
    bad["status"] = gate_failed["status"]
    for m, good in zip(bad["measurements"], gate_failed["measurements"], strict=True):
        m.update(source=good["source"], subject=good["subject"], metric=good["metric"])
        m["device"] = {k + HOSTILE: v for k, v in m["device"].items()}
    bad["environment"] = {k + HOSTILE: v for k, v in bad["environment"].items()}
    html = render_html(bad)
    hostile = Page(html)
    assert "<script" not in html
    assert "<img" not in html
    assert html.count("&lt;script&gt;alert(1)") > 100
    assert {t for t, _ in hostile.tags} == {t for t, _ in clean.tags}
    assert not [a for _, attributes in hostile.tags for a in attributes if a.startswith("on")]


def test_hidden_characters_are_shown_by_their_code(report: dict[str, Any]) -> None:
    report["units"][0]["name"] = "conv\u202egnp.1\x00"
    html = render_html(report)
    assert r"conv\u202egnp.1\u0000" in html
    assert "\u202e" not in html


def test_page_asks_for_nothing(report: dict[str, Any]) -> None:
    page = Page(render_html(report))
    policy = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv")]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert not {"script", "link", "iframe", "object", "img", "form", "base"} & {t for t, _ in page.tags}
    links = [a["href"] for _, a in page.tags if "href" in a]
    anchors = {a.get("id") for _, a in page.tags}
    assert links
    assert all(link and link[0] == "#" and link[1:] in anchors for link in links)
    assert "url(" not in files("edgekit.report").joinpath("templates/style.css").read_text()


def test_summary_and_sections_hold_the_figures(report: dict[str, Any]) -> None:
    page = Page(render_html(report))
    header = page.of("header")
    for text in ("90.96 %", "from 91.16 %", "0.20 points lower", "n = 509", "305.7 kB", "from 1,091 kB"):
        assert text in header
    for text in ("3.57× smaller", "unchanged", "27.03 M", "1.20× fewer", "arm64 instructions", "1 warning"):
        assert text in header
    assert "all 5 gates passed" in header
    assert "structured pruning" in page.of("plan")
    assert "Cortex-A72 has no fp16 arithmetic" in page.of("plan")
    assert "≤ 0.60 points 0.20 points ✓ passed" in page.of("gates")
    assert "layer3.2.conv2 27.9 dB" in page.of("layers")
    assert "tflite".upper() not in page.of("numerics")
    assert "TFLite int8 torch 30.5 dB" in page.of("numerics")
    assert "minmax 30.5 dB 100.00 % chosen" in page.of("compression")
    assert "Nothing was pruned" in page.of("compression")
    assert "L1D misses ways: 2 kib: 32 emulator modelled" in page.of("measurements")
    assert "30 of 31 operators" in page.of("coverage")
    assert "305.7" in page.of("stages")
    assert "ai-edge-litert" in page.of("provenance")


def test_pruning_and_broken_gates_are_shown(gate_failed: dict[str, Any]) -> None:
    page = Page(render_html(gate_failed))
    assert "1 of 5 gates not passed: accuracy drop" in page.of("header")
    assert "✗ failed" in page.of("gates")
    assert "layer1 32 16 50 %" in page.of("compression")
    assert "the weights of epoch 6 were kept" in page.of("compression")


def test_what_was_not_measured_is_never_a_zero(failed: dict[str, Any]) -> None:
    page = Page(render_html(failed))
    header = page.of("header")
    assert header.count("not measured") == 5 + len(failed["gates"])  # five cards, and each gate
    assert "Failed in convert: onnx2tf does not know the operator" in header
    assert "replace the operator" in header
    for section in ("numerics", "measurements", "coverage"):
        assert "Not measured." in page.of(section)
    cards = header[header.index("Accuracy") : header.index("Instructions")]
    assert not re.search(r"\d", cards)


def test_latency_from_an_emulator_reads_not_measured(report: dict[str, Any]) -> None:
    text = Page(render_html(report)).of("measurements")
    assert "latency emulator – not measured an emulator cannot know it" in text


def test_unlabelled_build_leads_with_agreement_then_sqnr(report: dict[str, Any]) -> None:
    report["accuracy"] = None
    assert "Agreement with the original 98.82 %" in Page(render_html(report)).of("header")
    report["agreement"] = None
    assert "Output SQNR 30.5 dB" in Page(render_html(report)).of("header")
    report["numerics"] = []
    assert "Accuracy not measured" in Page(render_html(report)).of("header")


def test_long_tables_collapse_and_short_ones_do_not(report: dict[str, Any]) -> None:
    def details(r: dict[str, Any]) -> dict[str, bool]:
        return {
            m.group(2): bool(m.group(1))
            for m in re.finditer(r"<details( open)?><summary>([^<]+)</summary>", render_html(r))
        }

    assert details(report)["All 31 operators with their figures"] is False
    report["units"] = report["units"][:5]
    assert details(report)["All 5 operators with their figures"] is True


def test_markup_is_accessible(gate_failed: dict[str, Any]) -> None:
    tags = Page(render_html(gate_failed)).tags
    assert tags[0] == ("html", {"lang": "en"})
    assert all(a.get("scope") in ("col", "row") for t, a in tags if t == "th")
    assert all(a.get("aria-label") or a.get("aria-hidden") == "true" for t, a in tags if t == "svg")
    ids = [a["id"] for _, a in tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a["aria-labelledby"] in ids for _, a in tags if "aria-labelledby" in a)


def themes() -> dict[str, dict[str, str]]:
    css = files("edgekit.report").joinpath("templates/style.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", css, re.S)[:2]
    found = {"light": dict(re.findall(r"--([\w-]+): (#\w{6})", light))}
    found["dark"] = found["light"] | dict(re.findall(r"--([\w-]+): (#\w{6})", dark))
    return found


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.1."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(theme: str) -> None:
    colours = themes()[theme]

    def contrast(a: str, b: str) -> float:
        light, dark = sorted((luminance(colours[a]), luminance(colours[b])), reverse=True)
        return (light + 0.05) / (dark + 0.05)

    text = [("ink", "page"), ("muted", "page"), ("muted", "panel"), ("good", "panel"), ("bad", "panel")]
    text += [
        ("good", "good-bg"),
        ("bad", "bad-bg"),
        ("warn", "warn-bg"),
        ("ink", "note-bg"),
        ("warn", "good-bg"),
    ]
    assert [p for p in text if contrast(*p) < 4.5] == []
    drawn = ["int8", "int16x8", "dynamic", "fp16", "float32", "other", "bad"]
    assert [c for c in drawn if contrast(c, "panel") < 3.0] == []


def test_lowest_sqnr_is_flagged_only_where_there_is_a_choice(report: dict[str, Any]) -> None:
    names = [report["units"][i]["name"] for i in lowest_sqnr(report["units"])]
    assert names == ["layer3.2.conv2", "layer3.2.add", "layer3.2.conv1"]
    assert lowest_sqnr(report["units"][:3]) == []
    assert lowest_sqnr([{**u, "sqnr_db": None} for u in report["units"]]) == []


def test_text_summary(report: dict[str, Any], failed: dict[str, Any]) -> None:
    lines = dict(summary_lines(report))
    assert lines["Status"] == "OK: all 5 gates passed"
    assert lines["Model"] == "cifar_resnet20 -> pi4 (tflite, xnnpack, int8)"
    assert lines["Size"].startswith("1,091 kB -> 305.7 kB  (3.57× smaller")
    assert lines["Accuracy (top-1)"].startswith("91.16 % -> 90.96 %  (0.20 points lower; 95 % CI")
    assert lines["Warning"] == report["warnings"][0]
    assert dict(summary_lines(failed))["Size"] == "not measured"
    gates = [text for label, text in summary_lines(failed) if label == "Gate"]
    assert all(g.startswith("NOT MEASURED: ") for g in gates)


def test_equal_reports_give_equal_pages(report: dict[str, Any], tmp_path: Any) -> None:
    write_report(report, tmp_path / "a")
    write_report(report, tmp_path / "b")
    assert (tmp_path / "a" / "report.html").read_bytes() == (tmp_path / "b" / "report.html").read_bytes()


def test_several_targets_are_compared(several: dict[str, Any], report: dict[str, Any]) -> None:
    text = Page(render_html(several)).of("targets")
    assert "tflite/xnnpack int8 chosen, gates hold" in text
    assert "compared by their instructions per inference" in text and "not milliseconds" in text
    assert "fails accuracy_drop" in text and "the converter stopped" in text
    assert "not built" in text and "aten.fft_fft at net.odd: has no kernel" in text
    assert "fp16 560" in text, "the further file of the bundle"
    assert "targets" not in Page(render_html(report)).sections
    lines = [text for label, text in summary_lines(several) if label == "Target"]
    assert len(lines) == 3 and lines[0].endswith("chosen (fewest instructions per inference among 2 targets)")
    assert all(label != "Target" for label, _ in summary_lines(report))


def test_the_table_of_targets_fits_the_schema_and_holds_hostile_text(several: dict[str, Any]) -> None:
    validate_report(several)
    several["targets"][2]["reason"] = HOSTILE
    assert "<script" not in render_html(several)
