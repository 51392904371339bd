"""The codec's page: what do the features cost?"""

from deploy.dashboards import Dashboard, Panel, Row

_CHOSEN = '{model=~"$model", codec=~"$codec"}'


def _sum(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{_CHOSEN}[$__rate_interval]))"


def _whole(metric: str) -> str:
    return f"sum(rate({metric}{_CHOSEN}[$__rate_interval]))"


def _stage_means(by: str, selector: str) -> str:
    times = f'{{model=~"$model", codec=~"$codec", stage=~"{selector}"}}[$__rate_interval]'
    return (
        f"sum by ({by}) (rate(dtufc_edge_stage_seconds_sum{times}))"
        f" / (sum by ({by}) (rate(dtufc_edge_stage_seconds_count{times})) > 0)"
    )


CODEC = Dashboard(
    uid="dtufc-codec",
    title="DT-UFC: codec",
    text="What do the features cost? Bits a feature value, bytes before and after, time of coding.",
    variables=("model", "codec"),
    rows=[
        Row(
            title="Now",
            panels=[
                Panel(
                    title="Bits a feature value",
                    text="BPFP of everything that crossed the wire, headers and checksums counted.",
                    unit="short",
                    kind="number",
                    width=6,
                    queries=[
                        (
                            f"8 * {_whole('dtufc_edge_coded_bytes_total')}"
                            f" / {_whole('dtufc_edge_feature_values_total')}",
                            "BPFP",
                        )
                    ],
                ),
                Panel(
                    title="Raw to coded",
                    text="How many bytes of features one byte on the wire stands for.",
                    unit="suffix:x",
                    kind="number",
                    width=6,
                    queries=[
                        (f"{_whole('dtufc_edge_raw_bytes_total')} / {_whole('dtufc_edge_coded_bytes_total')}", "ratio")
                    ],
                ),
                Panel(
                    title="On the wire",
                    text="Bytes of frames that the edge sends a second.",
                    unit="Bps",
                    kind="number",
                    width=6,
                    queries=[(_whole("dtufc_edge_coded_bytes_total"), "coded")],
                ),
                Panel(
                    title="Desyncs",
                    text="Frames of the last ten minutes that the cloud decoded to other symbols. One is too many.",
                    unit="short",
                    kind="number",
                    width=6,
                    queries=[(f"sum(codec:dtufc_edge_desyncs:increase10m{_CHOSEN})", "desyncs")],
                    empty="no data",
                    limits=(0.5, 1),
                ),
            ],
        ),
        Row(
            title="Rate",
            panels=[
                Panel(
                    title="Bits a feature value by model, codec and quality",
                    text="Mean BPFP over ten minutes. Quality is to a tenth, or the kind of limit that the caller set.",
                    unit="short",
                    width=12,
                    queries=[(f"codec:dtufc_edge_bpfp:mean10m{_CHOSEN}", "{{model}} {{codec}} {{quality}}")],
                ),
                Panel(
                    title="Spread of bits a feature value",
                    text="BPFP of the middle request and of the one at 95 of 100: how much inputs differ.",
                    unit="short",
                    width=6,
                    queries=[
                        (
                            f"histogram_quantile({q}, {_sum('dtufc_edge_bpfp_bucket', 'model, codec, le')})",
                            f"{{{{model}}}} {{{{codec}}}} p{round(100 * q)}",
                        )
                        for q in (0.5, 0.95)
                    ],
                ),
                Panel(
                    title="Drift against the last day",
                    text="Mean BPFP of ten minutes over that of a day. Beyond 0.8 or 1.25: the alert DtufcBpfpDrift.",
                    unit="suffix:x",
                    width=6,
                    queries=[(f"codec:dtufc_edge_bpfp:drift{_CHOSEN}", "{{model}} {{codec}} {{quality}}")],
                ),
            ],
        ),
        Row(
            title="Bytes",
            panels=[
                Panel(
                    title="Raw against coded",
                    text="Bytes of features as the model made them, and of the frames that crossed the wire.",
                    unit="Bps",
                    width=8,
                    queries=[
                        (_sum("dtufc_edge_raw_bytes_total", "model"), "raw {{model}}"),
                        (_sum("dtufc_edge_coded_bytes_total", "model"), "coded {{model}}"),
                    ],
                ),
                Panel(
                    title="Coded over raw",
                    text="Share of the raw bytes that crosses the wire, over five minutes. The smaller the better.",
                    unit="percentunit",
                    queries=[(f"codec:dtufc_edge_coded:ratio_rate5m{_CHOSEN}", "{{model}} {{codec}}")],
                ),
                Panel(
                    title="Feature values",
                    text="Feature values that were coded a second.",
                    unit="short",
                    kind="stack",
                    queries=[(_sum("dtufc_edge_feature_values_total", "model, codec"), "{{model}} {{codec}}")],
                ),
            ],
        ),
        Row(
            title="Time",
            panels=[
                Panel(
                    title="Time by stage",
                    text="Mean seconds a request, stage by stage. round_trip is left out: it holds the cloud's.",
                    unit="s",
                    kind="stack",
                    width=12,
                    queries=[(_stage_means("stage", "edge.*|cloud.*"), "{{stage}}")],
                ),
                Panel(
                    title="Encode and decode by codec",
                    text="Mean seconds a request of coding alone.",
                    unit="s",
                    width=6,
                    queries=[(_stage_means("codec, stage", "edge.encode|cloud.decode"), "{{codec}} {{stage}}")],
                ),
                Panel(
                    title="Stages of the last minutes",
                    text="Mean seconds a request, stage by stage, now.",
                    unit="s",
                    kind="bars",
                    width=6,
                    queries=[(_stage_means("stage", ".*"), "{{stage}}")],
                ),
            ],
        ),
    ],
)
