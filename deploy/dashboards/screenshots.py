"""`python -m deploy.dashboards.screenshots`: both dashboards as screenshots, with the data of a running Prometheus.

Grafana's server is not needed: the committed JSON says what is on a page, each query is asked as Grafana would ask it,
and deploy/grafana/screenshots draws the answers with Grafana's own components in Chromium. Needs npm and Chromium.
"""

import json
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.dashboards.grafana import DASHBOARDS, ROOT

SCREENSHOTS = ROOT / "deploy" / "grafana" / "screenshots"
_STEP_S = 5
_VARIABLES = {"$__rate_interval": "30s", "$model": ".*", "$codec": ".*"}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def series(prometheus: str, target: dict[str, Any], start: float, end: float) -> list[dict[str, Any]]:
    """What one query of a panel gives over a time: for each series its legend and points."""
    expr = target["expr"]
    for name, value in _VARIABLES.items():
        expr = expr.replace(name, value)
    asked = urllib.parse.urlencode({"query": expr, "start": start, "end": end, "step": _STEP_S})
    with urllib.request.urlopen(f"{prometheus}/api/v1/query_range?{asked}", timeout=30) as reply:
        found = json.load(reply)["data"]["result"]
    return [{"legend": _legend(target["legendFormat"], one["metric"]), "points": one["values"]} for one in found]


def _legend(template: str, labels: dict[str, str]) -> str:
    for name, value in labels.items():
        template = template.replace(f"{{{{{name}}}}}", value)
    return template


def page(prometheus: str, dashboard: dict[str, Any], minutes: float) -> dict[str, Any]:
    """A dashboard and its data, as the drawing page reads them."""
    end = time.time()
    start = end - 60 * minutes
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    data = {panel["id"]: {t["refId"]: series(prometheus, t, start, end) for t in panel["targets"]} for panel in panels}
    return {"dashboard": dashboard, "from": start, "to": end, "data": data}


def main(
    prometheus: Annotated[str, typer.Option(help="A Prometheus that scrapes a pair.")] = "http://127.0.0.1:9090",
    minutes: Annotated[float, typer.Option(help="How much of the past to show.")] = 10.0,
    output: Annotated[Path, typer.Option(help="Folder of the screenshots.")] = ROOT / "docs",
) -> None:
    """Draws both dashboards."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None or shutil.which("npm") is None:
        raise SystemExit("needs npm and Chromium (Debian: apt install npm chromium fonts-dejavu-core)")
    if not (SCREENSHOTS / "node_modules").is_dir():
        subprocess.run(["npm", "install", "--ignore-scripts", "--legacy-peer-deps"], cwd=SCREENSHOTS, check=True)
    subprocess.run(["npx", "vite", "build"], cwd=SCREENSHOTS, check=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(SCREENSHOTS / "dist")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in DASHBOARDS:
        dashboard = json.loads((ROOT / "deploy/grafana/dashboards" / f"{name}.json").read_text(encoding="utf-8"))
        shown = page(prometheus, dashboard, minutes)
        (SCREENSHOTS / "dist" / "page.json").write_text(json.dumps(shown), encoding="utf-8")
        file = output.resolve() / f"dashboard-{name}.png"
        url = f"http://127.0.0.1:{server.server_port}/"
        subprocess.run(["node", "shoot.mjs", browser, url, str(file)], cwd=SCREENSHOTS, check=True)
        print(file)
    server.shutdown()


if __name__ == "__main__":
    typer.run(main)
