"""Names that a peer made up never become labels of a metric."""

from prometheus_client import generate_latest

from dtufc.serving.telemetry import Telemetry


def test_stages_that_a_peer_made_up_are_counted_as_other() -> None:
    telemetry = Telemetry("edge")
    with telemetry.request("answer") as record:
        record.stages.add("cloud.head", 0.5)
        for number in range(1000):
            record.stages.add(f"made-up-{number}", 0.001)
    page = generate_latest(telemetry.registry).decode()
    assert "made-up" not in page
    assert 'dtufc_edge_stage_seconds_count{codec="unknown",model="unknown",stage="cloud.head"} 1.0' in page
    assert 'dtufc_edge_stage_seconds_count{codec="unknown",model="unknown",stage="other"} 1000.0' in page
