"""The comparison with a GPU: on a machine without one it says so, and against itself the CPU agrees."""

import pytest
import torch

from dtufc_research.evaluation.cuda import main


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_that_nothing_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == "No CUDA device was found: nothing was measured.\n"


def test_the_cpu_agrees_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["smollm2-135m", "--device", "cpu", "--inputs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| smollm2-135m ")]
    assert [row[2] for row in rows] == ["float32", "bfloat16"] * 2
    assert [row[-2:] for row in rows[::2]] == [["0", "1.0000"]] * 2
    assert rows[1][-2:] == rows[3][-2:]
    assert float(rows[1][-1]) > 0.9
    assert lines[-1].count("same bytes") == 6


def test_a_profile_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nothing", "--device", "cpu"]) == 1
    assert "nothing/profile.yaml cannot be read" in capsys.readouterr().err
