"""The operator's page: is the pair well?"""

from deploy.dashboards import Dashboard, Panel, Row


def _quantiles(metric: str, by: str, quantile: float) -> str:
    return f"histogram_quantile({quantile}, sum by ({by}, le) (rate({metric}_bucket[$__rate_interval])))"


def _halves(metric: str) -> list[tuple[str, str]]:
    return [(_quantiles(metric, "model", q), f"{{{{model}}}} p{round(100 * q)}") for q in (0.5, 0.95)]


def _tokens(kind: str) -> str:
    return f'sum by (model) (rate(dtufc_edge_tokens_total{{kind="{kind}"}}[$__rate_interval]))'


def _mean(metric: str) -> str:
    rates = (f"sum by (model) (rate({metric}_{part}[$__rate_interval]))" for part in ("sum", "count"))
    return "{} / ({} > 0)".format(*rates)


def _stage_panel(quantile: int) -> Panel:
    return Panel(
        title=f"Stages, p{quantile}",
        text=f"{quantile} of 100 requests spent at most so long in the stage. round_trip holds the cloud's stages.",
        unit="s",
        queries=[(_quantiles("dtufc_edge_stage_seconds", "stage", quantile / 100), "{{stage}}")],
    )


OPERATOR = Dashboard(
    uid="dtufc-operator",
    title="DT-UFC: operator",
    text="Is the pair well? Traffic, errors, latency by stage, queues, saturation.",
    rows=[
        Row(
            title="Now",
            panels=[
                Panel(
                    title="Clouds up",
                    text="Clouds that answer Prometheus. None: nobody is served.",
                    unit="short",
                    kind="number",
                    width=4,
                    queries=[("dtufc:clouds_up:sum", "clouds")],
                    empty="no data",
                ),
                Panel(
                    title="Requests",
                    text="Requests that ended at the edge, well or not, over five minutes.",
                    unit="reqps",
                    kind="number",
                    width=4,
                    queries=[("sum(task:dtufc_edge_requests:rate5m)", "requests")],
                ),
                Panel(
                    title="Failures",
                    text="Share of requests that failed, and not by the caller's fault. The alert DtufcErrorRatio: 5%.",
                    unit="percentunit",
                    kind="number",
                    width=4,
                    queries=[("sum(task:dtufc_edge_failures:rate5m) / sum(task:dtufc_edge_requests:rate5m)", "share")],
                    empty="none failed",
                    limits=(0.01, 0.05),
                ),
                Panel(
                    title="p95 over objective",
                    text="Of the slowest task, over five minutes. Above 100%: the alert DtufcLatency.",
                    unit="percentunit",
                    kind="number",
                    width=4,
                    queries=[
                        (
                            "max(task:dtufc_edge_request_seconds:p95_rate5m"
                            " / on (task) task:dtufc_objective_seconds:p95)",
                            "share",
                        )
                    ],
                    limits=(0.8, 1),
                ),
                Panel(
                    title="Fullest queue",
                    text="Requests at work or waiting, as a share of the places. Above 80%: DtufcQueueSaturated.",
                    unit="percentunit",
                    kind="number",
                    width=4,
                    queries=[("max(side:dtufc_saturation:ratio)", "share")],
                    empty="no data",
                    limits=(0.5, 0.8),
                ),
                Panel(
                    title="Alerts firing",
                    text="Alerts of DT-UFC that fire now; Prometheus lists them under Alerts.",
                    unit="short",
                    kind="number",
                    width=4,
                    queries=[('sum(ALERTS{alertname=~"Dtufc.*", alertstate="firing"}) or vector(0)', "alerts")],
                    empty="no data",
                    limits=(1, 3),
                ),
            ],
        ),
        Row(
            title="Traffic and errors",
            panels=[
                Panel(
                    title="Requests by task",
                    text="Requests that ended at the edge, well or not.",
                    unit="reqps",
                    kind="stack",
                    queries=[("sum by (task) (rate(dtufc_edge_requests_total[$__rate_interval]))", "{{task}}")],
                ),
                Panel(
                    title="Errors by reason",
                    text="INPUT and CANCELLED are the caller's; UNAVAILABLE, OVERLOADED and INTERNAL are ours.",
                    unit="reqps",
                    kind="stack",
                    queries=[
                        ("sum by (reason) (rate(dtufc_edge_errors_total[$__rate_interval]))", "edge: {{reason}}"),
                        ("sum by (reason) (rate(dtufc_cloud_errors_total[$__rate_interval]))", "cloud: {{reason}}"),
                    ],
                    empty="no errors in this time",
                ),
                Panel(
                    title="Failures by task",
                    text="Share of a task's requests that failed, and not by the caller's fault, over five minutes.",
                    unit="percentunit",
                    queries=[("task:dtufc_edge_failures:ratio_rate5m", "{{task}}")],
                    empty="no failures in this time",
                    highest=1,
                ),
            ],
        ),
        Row(
            title="Latency",
            panels=[
                Panel(
                    title=f"Requests, {name}",
                    text=f"{share} of 100 requests took at most so long, over five minutes.",
                    unit="s",
                    queries=[(f"task:dtufc_edge_request_seconds:{name}_rate5m", "{{task}}")],
                )
                for name, share in (("p50", 50), ("p95", 95), ("p99", 99))
            ],
        ),
        Row(title="Latency by stage", panels=[_stage_panel(50), _stage_panel(95), _stage_panel(99)]),
        Row(
            title="Generation",
            panels=[
                Panel(
                    title="First token",
                    text="From the prompt's tokens to the reply's first one, of the middle text and of 95 in 100.",
                    unit="s",
                    width=6,
                    queries=_halves("dtufc_edge_first_token_seconds"),
                ),
                Panel(
                    title="Time between tokens",
                    text="Of the middle token and of 95 in 100; tokens that came by one step share its time.",
                    unit="s",
                    width=6,
                    queries=_halves("dtufc_edge_token_seconds"),
                ),
                Panel(
                    title="Tokens",
                    text="Tokens a second. Drafted ones were guessed ahead; accepted ones held and are new ones too.",
                    unit="short",
                    width=6,
                    queries=[("sum by (kind) (rate(dtufc_edge_tokens_total[$__rate_interval]))", "{{kind}}")],
                ),
                Panel(
                    title="Drafts that held",
                    text="Share of the drafted tokens that were accepted.",
                    unit="percentunit",
                    width=6,
                    queries=[(f"{_tokens('accepted')} / ({_tokens('drafted')} > 0)", "{{model}}")],
                    empty="no drafts in this time",
                    highest=1,
                ),
            ],
        ),
        Row(
            title="Sessions of generation",
            panels=[
                Panel(
                    title="Sessions",
                    text="Texts that are being generated at the edge, and sessions that are open at the clouds.",
                    unit="short",
                    width=6,
                    queries=[
                        ("sum(dtufc_edge_sequences)", "edge"),
                        ("sum(dtufc_cloud_sequences)", "clouds"),
                    ],
                    empty="no data",
                ),
                Panel(
                    title="Cache",
                    text="Reserved memory for keys and values, of what may be. Above 90%: DtufcCacheAlmostFull.",
                    unit="percentunit",
                    width=6,
                    queries=[("side:dtufc_cache:ratio", "{{side}}")],
                    empty="no data",
                    highest=1,
                ),
                Panel(
                    title="Sequences a pass",
                    text="How many sequences share a pass through the model, in the mean.",
                    unit="short",
                    width=6,
                    queries=[
                        (f"{_mean('dtufc_edge_pass_sequences')}", "edge {{model}}"),
                        (f"{_mean('dtufc_cloud_pass_sequences')}", "clouds {{model}}"),
                    ],
                ),
                Panel(
                    title="Recoveries",
                    text="Sessions that the edge opened again, and those that the clouds ended before their texts did.",
                    unit="ops",
                    width=6,
                    queries=[
                        ("sum(rate(dtufc_edge_recoveries_total[$__rate_interval]))", "edge: recovered"),
                        (
                            'sum by (reason) (rate(dtufc_cloud_sessions_total{reason!="closed"}[$__rate_interval]))',
                            "clouds: {{reason}}",
                        ),
                    ],
                    empty="no data",
                ),
            ],
        ),
        Row(
            title="Queues and saturation",
            panels=[
                Panel(
                    title="Queues",
                    text="Requests at work or waiting on each side, and the places. At the limit, more are rejected.",
                    unit="short",
                    queries=[
                        ("sum(dtufc_edge_running)", "edge"),
                        ("sum(dtufc_cloud_running)", "clouds"),
                        ("sum(dtufc_edge_slots)", "places of the edge"),
                        ("sum(dtufc_cloud_slots)", "places of the clouds"),
                    ],
                    empty="no data",
                ),
                Panel(
                    title="Cores at work",
                    text="CPU seconds of each process a second. At the number of its cores, requests wait.",
                    unit="short",
                    queries=[
                        ("rate(dtufc_edge_process_cpu_seconds_total[$__rate_interval])", "edge {{instance}}"),
                        ("rate(dtufc_cloud_process_cpu_seconds_total[$__rate_interval])", "cloud {{instance}}"),
                    ],
                    empty="no data",
                ),
                Panel(
                    title="Memory",
                    text="Resident memory of each process. Models and networks are most of it; it should not grow.",
                    unit="bytes",
                    queries=[
                        ("dtufc_edge_process_resident_memory_bytes", "edge {{instance}}"),
                        ("dtufc_cloud_process_resident_memory_bytes", "cloud {{instance}}"),
                    ],
                    empty="no data",
                ),
            ],
        ),
    ],
)
