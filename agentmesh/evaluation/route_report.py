"""The report of routing tests: one page of tables and plots as HTML and Markdown, and the figures as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agentmesh.errors import InputError
from agentmesh.evaluation import plots
from agentmesh.evaluation.pages import Page, Picture, Section, Table, to_html, to_markdown
from agentmesh.evaluation.routes import METRICS, UNITS

__all__ = ["figure_text", "interval_text", "page_of", "write_report"]

MOST_WRONG = 100
"""Wrong decisions of one router that the page lists; the JSON file has all."""
NO_PLOTS = "There are no plots: matplotlib is not installed (pip install 'agentmesh[plots]')."


def write_report(result: Mapping[str, Any], folder: Path, *, drawn: bool | None = None) -> list[Path]:
    """Write `routes.html`, `routes.md`, `routes.json` and the plots into a folder, which is made if need be.

    Args:
        result: What `routes.measure` gave, with `file`, and `missed` if there were goals.
        folder: Older files of these names are overwritten.
        drawn: Whether there are plots; None: if matplotlib is installed.

    Returns:
        The files, in this order.

    Raises:
        InputError: If the folder cannot be written.
    """
    page = page_of(result, drawn=plots.can_plot() if drawn is None else drawn)
    pictures = [picture for section in page.sections for picture in section.pictures]
    texts = {
        "routes.html": to_html(page).encode(),
        "routes.md": to_markdown(page).encode(),
        "routes.json": (json.dumps(result, ensure_ascii=False, indent=2) + "\n").encode(),
        **{picture.name: picture.png for picture in pictures},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in texts.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from error
    return [folder / name for name in texts]


def page_of(result: Mapping[str, Any], *, drawn: bool) -> Page:
    """The page of a result."""
    routers: Sequence[Mapping[str, Any]] = result["routers"]
    names = ", ".join(r["router"] for r in routers)
    text = (
        f"{result['messages']} labelled messages of {result['file']}, {result['agents']} agents, "
        f"agentmesh {result['version']}. Routers: {names}. "
        "Intervals hold 95 % of 1,000 bootstrap draws of the messages."
    )
    sections = [_figures(routers, drawn=drawn)]
    if result.get("goals"):
        missed = result["missed"]
        sections.append(Section("Goals", "All were reached." if not missed else "Missed: " + "; ".join(missed) + "."))
    if result["paired"]:
        sections.append(_paired(result["paired"]))
    sections.append(_calibration(routers, drawn=drawn))
    if any(r["roc"] for r in routers):
        curves = {r["router"]: r["roc"] for r in routers if r["roc"]}
        picture = (Picture("routes-scope.png", "Out of scope: finds and false alarms", plots.roc_plot(curves)),)
        said = "The area under each curve is `oos_auroc`. Messages that expect a question back are left out."
        sections.append(Section("Out of scope", said, pictures=picture if drawn else ()))
    for router in routers:
        sections += _mistakes(router)
    sections.append(Section("What the figures mean", tables=(Table(("figure", "meaning"), tuple(METRICS.items())),)))
    return Page("Routing tests", text, sections)


def figure_text(metric: str, figures: Mapping[str, Any]) -> str:
    """A value as people read it."""
    value = figures["value"]
    if value is None:
        return "-"
    if not value and metric in ("usd", "tokens"):
        return "0"
    return f"{value:.6f}" if metric == "usd" else f"{value:.1f}" if metric == "tokens" else f"{value:.3f}"


def interval_text(metric: str, figures: Mapping[str, Any]) -> str:
    """Its interval, likewise."""
    if figures["ci95"] is None:
        return ""
    return " .. ".join(figure_text(metric, {"value": end}) for end in figures["ci95"])


def _figures(routers: Sequence[Mapping[str, Any]], *, drawn: bool) -> Section:
    rows = [
        (
            metric,
            router["router"],
            figure_text(metric, router["metrics"][metric]),
            interval_text(metric, router["metrics"][metric]),
            str(router["metrics"][metric]["n"]),
            UNITS.get(metric, "share") + (", " + note if (note := router["metrics"][metric].get("note")) else ""),
        )
        for metric in METRICS
        for router in routers
    ]
    table = Table(
        ("figure", "router", "value", "95 % interval", "n", "unit"), tuple(rows), ("value", "95 % interval", "n")
    )
    shares = [
        (router["router"], metric, float(m["value"]), (float(m["ci95"][0]), float(m["ci95"][1])))
        for metric in METRICS
        for router in routers
        if metric not in (*UNITS, "failed") and (m := router["metrics"][metric])["value"] is not None
    ]
    if not drawn:
        return Section("Figures", NO_PLOTS, (table,))
    picture = Picture("routes-figures.png", "The shares with their intervals", plots.figure_plot(shares, "Shares"))
    return Section("Figures", "", (table,), (picture,))


def _paired(rows: Sequence[Mapping[str, Any]]) -> Section:
    table = Table(
        ("figure", "router", "against", "difference", "95 % interval", "p", "test"),
        tuple(
            (
                row["metric"],
                row["other"],
                row["first"],
                f"{row['difference']:+.3f}",
                f"{row['ci95'][0]:+.3f} .. {row['ci95'][1]:+.3f}",
                f"{row['p']:.4f}",
                row["test"] + (f"; {row['better']} better, {row['worse']} worse" if "better" in row else ""),
            )
            for row in rows
        ),
        ("difference", "95 % interval", "p"),
    )
    said = "Each router against the first one, on the same messages. p is the chance of such a difference if both were "
    return Section("Side by side", said + "equally good; with several routers, ask for a smaller p.", (table,))


def _calibration(routers: Sequence[Mapping[str, Any]], *, drawn: bool) -> Section:
    rows = tuple(
        (r["router"], f"{p['confidence']:.3f}", f"{p['right']:.3f}", str(p["n"]))
        for r in routers
        for p in r["calibration"]
    )
    table = Table(("router", "stated confidence", "right", "n"), rows, ("stated confidence", "right", "n"))
    said = "Decisions in order of their confidence, cut into parts of equal size; the mean distance is `ece`."
    if not drawn:
        return Section("Calibration", said, (table,))
    picture = plots.curve_plot({r["router"]: r["calibration"] for r in routers})
    return Section("Calibration", said, (table,), (Picture("routes-calibration.png", "Calibration curves", picture),))


def _mistakes(router: Mapping[str, Any]) -> list[Section]:
    """The confusion pairs and the wrong decisions of one router."""
    if not router["wrong"]:
        return [Section(f"Mistakes of {router['router']}", "None.")]
    pairs = Table(
        ("wanted", "got", "times", "for example"),
        tuple((p["wanted"], p["got"], str(p["count"]), p["texts"][0]) for p in router["confusions"]),
        ("times",),
    )
    wrong = Table(
        ("line", "message", "wanted", "got", "confidence", "why"),
        tuple(
            (
                str(w["line"]),
                w["text"],
                ", ".join(w["expected"]),
                ", ".join(w["got"]),
                f"{w['confidence']:.2f}",
                w["reason"],
            )
            for w in router["wrong"][:MOST_WRONG]
        ),
        ("line", "confidence"),
    )
    count = len(router["wrong"])
    said = f"{count} of the decisions are not exactly right"
    said += f"; the first {MOST_WRONG} are listed." if count > MOST_WRONG else "."
    return [Section(f"Mistakes of {router['router']}", said, (pairs, wrong))]
