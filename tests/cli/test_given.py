"""What a shell gives `dtufc` that cannot be: one line, and exit status 1."""

import pytest
from typer.testing import CliRunner

from dtufc.cli import app

RUNNER = CliRunner()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["health", "--timeout", "inf"], "timeout_s: inf. Give seconds"),
        (["health", "--timeout", "nan"], "timeout_s: nan. Give seconds"),
        (["health", "127.0.0.1:116587"], "address: '127.0.0.1:116587'. Give HOST:PORT"),
        (["answer", "Why?", "a", "b", "--timeout", "9e9"], "timeout_s: 9000000000.0. Give seconds"),
        (["answer", "Why?", "a", "b", "--timeout", "-5"], "timeout_s: -5.0. Give seconds"),
        (["answer", "Why?", "a", "b", "--edge", "localhost:116587"], "address: 'localhost:116587'. Give HOST:PORT"),
        (["answer", "Why?", "a", "b", "--edge", "http://localhost:50051"], "Give HOST:PORT"),
        (["answer", "Why?", "a", "b", "--quality", "nan"], "quality: nan. Give"),
        (["answer", "Why?", "a", "b", "--max-bytes", "-1"], "max_bytes: -1. Give"),
        (["complete", "Hi", "--max-tokens", "0"], "max_tokens: 0. Give"),
        (["complete", "Hi", "--temperature", "inf"], "temperature: inf. Give"),
        (["complete", "Hi", "--seed", "-1"], "seed: -1. Give"),
        (["generate-image", "rocket", "-o", "x.png", "--guidance", "nan"], "guidance: nan. Give"),
        (["prove", "smollm2-135m", "--split", "-1"], "split"),
        (["prove", "smollm2-135m", "--split", "9" * 30], "split"),
    ],
)
def test_a_number_or_an_address_that_cannot_be_is_one_line(arguments: list[str], says: str) -> None:
    done = RUNNER.invoke(app, arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("error: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["DTUFC_CAHCE", "dtufc_cache", "DTUFC_CACHE_"])
def test_a_misspelt_variable_is_an_error_of_the_program_too(name: str) -> None:
    done = RUNNER.invoke(app, ["models", "--json"], env={name: "/weights"})
    assert done.exit_code == 1
    assert name in done.stderr


def test_variables_of_the_services_and_empty_ones_are_left_alone() -> None:
    env = {"DTUFC_EDGE_THREADS": "2", "DTUFC_CLOUD_LISTENN": "x", "DTUFC_SERVICE_HOST": "10.0.0.7", "DTUFC_X": ""}
    assert RUNNER.invoke(app, ["models", "--json"], env=env).exit_code == 0
