"""Grafana's JSON, which the SDK writes, and its alerts, which are those of deploy/prometheus/rules.yml.

Hides both formats, and the grid of 24 columns. Prometheus judges, Grafana tells: each alert fires where that one does.
"""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableHide,
    VariableRefresh,
)

from deploy.dashboards import Dashboard, Panel
from deploy.dashboards.codec import CODEC
from deploy.dashboards.operator import OPERATOR

ROOT = Path(__file__).parents[2]
SOURCE_UID = "dtufc-prometheus"  # as deploy/grafana/provisioning/datasources has it
DASHBOARDS = {"operator": OPERATOR, "codec": CODEC}
_SOURCE = DataSourceRef(type_val="prometheus", uid=SOURCE_UID)
_COLUMNS = 24


def dashboard_json(page: Dashboard) -> str:
    """A page as Grafana reads it."""
    builder = (
        dashboard.Dashboard(page.title)
        .uid(page.uid)
        .description(page.text)
        .tags(["dtufc"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("browser")
        .readonly()
    )
    for name in page.variables:
        builder.with_variable(
            dashboard.QueryVariable(name)
            .label(name)
            .datasource(_SOURCE)
            .query(f"label_values(dtufc_edge_requests_total, {name})")
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .include_all(True)
            .all_value(".*")
            .multi(True)
            .hide(VariableHide.DONT_HIDE)
        )
    ids = count(1)
    y = 0
    for row in page.rows:
        builder.with_row(dashboard.Row(row.title).id(next(ids)).grid_pos(GridPos(x=0, y=y, w=_COLUMNS, h=1)))
        y, x = y + 1, 0
        for panel in row.panels:
            place = GridPos(x=x, y=y, w=panel.width, h=panel.height)
            builder.with_panel(_built(panel).id(next(ids)).grid_pos(place))
            x += panel.width
        assert x == _COLUMNS, row.title
        y += max(panel.height for panel in row.panels)
    page_json = json.loads(json.dumps(builder.build(), cls=JSONEncoder))
    for variable in page_json.get("templating", {}).get("list", []):
        for key in ("auto", "auto_min", "auto_count"):  # of interval variables alone; the SDK writes them into each
            variable.pop(key, None)
    return json.dumps(page_json, indent=2, sort_keys=True) + "\n"


def _built(panel: Panel) -> Any:
    """The SDK's builder of one panel, all but its place."""
    match panel.kind:
        case "number":
            builder: Any = stat.Panel().graph_mode(shapes.BigValueGraphMode.NONE).thresholds(_thresholds(panel))
            builder.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        case "bars":
            builder = bargauge.Panel().orientation(shapes.VizOrientation.HORIZONTAL).thresholds(_thresholds(panel))
            builder.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).min(0)
        case _:
            builder = _lines(panel)
    builder.title(panel.title).description(panel.text).unit(panel.unit).datasource(_SOURCE).no_value(panel.empty)
    if panel.highest is not None:
        builder.max(panel.highest)
    for letter, (expr, legend) in zip("ABCDEF", panel.queries, strict=False):
        query = prometheus.Dataquery().expr(expr).legend_format(legend).ref_id(letter).datasource(_SOURCE)
        builder.with_target(query.instant() if panel.kind == "bars" else query.range())
    return builder


def _lines(panel: Panel) -> Any:
    legend = common.VizLegendOptions().show_legend(True).placement(shapes.LegendPlacement.BOTTOM)
    legend.display_mode(shapes.LegendDisplayMode.LIST)
    tooltip = common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)
    stacked = panel.kind == "stack"
    mode = shapes.StackingMode.NORMAL if stacked else shapes.StackingMode.NONE
    return (
        timeseries.Panel()
        .legend(legend)
        .tooltip(tooltip)
        .min(0)
        .line_width(2)
        .fill_opacity(30 if stacked else 5)
        .show_points(shapes.VisibilityMode.NEVER)
        .stacking(common.StackingConfig().mode(mode))
    )


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    colours = ["green", "orange", "red"]
    steps = [
        Threshold(value=value, color=colour) for value, colour in zip((None, *panel.limits), colours, strict=False)
    ]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def alerts_yaml(rules: Mapping[str, Any]) -> str:
    """Grafana's alert rules: one for each of Prometheus's, which fires where that one does."""
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    group = {
        "orgId": 1,
        "name": "dtufc",
        "folder": "DT-UFC",
        "interval": "10s",
        "rules": [_grafana_alert(rule) for rule in alerts],
    }
    text = yaml.safe_dump({"apiVersion": 1, "groups": [group]}, sort_keys=False, width=120)
    return f"# Written by `make dashboards` from deploy/prometheus/rules.yml.\n{text}"


def _grafana_alert(rule: Mapping[str, Any]) -> dict[str, Any]:
    name = rule["alert"]
    query = {
        "refId": "A",
        "relativeTimeRange": {"from": 600, "to": 0},
        "datasourceUid": SOURCE_UID,
        "model": {
            "refId": "A",
            "expr": f'ALERTS{{alertname="{name}", alertstate="firing"}}',
            "instant": True,
        },
    }
    limit = {
        "refId": "B",
        "datasourceUid": "__expr__",
        "model": {
            "refId": "B",
            "type": "threshold",
            "expression": "A",
            "conditions": [{"evaluator": {"type": "gt", "params": [0]}}],
        },
    }
    return {
        "uid": f"dtufc-{name.removeprefix('Dtufc').lower()}",
        "title": name,
        "condition": "B",
        "data": [query, limit],
        "noDataState": "OK",
        "execErrState": "Error",
        "for": "0s",
        "labels": rule["labels"],
        "annotations": {
            "summary": f"{name} fires in Prometheus",
            "description": rule["annotations"]["description"],
        },
    }


def generate() -> dict[Path, str]:
    """Every generated file below deploy/grafana, by its path."""
    grafana = ROOT / "deploy" / "grafana"
    files = {grafana / "dashboards" / f"{name}.json": dashboard_json(page) for name, page in DASHBOARDS.items()}
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text(encoding="utf-8"))
    files[grafana / "provisioning" / "alerting" / "rules.yaml"] = alerts_yaml(rules)
    return files
