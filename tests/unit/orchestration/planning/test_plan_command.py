"""The verb `plan` as a user gives it: exit codes, the last line, and words."""

from __future__ import annotations

import json
import re

import pytest
from typer.testing import CliRunner, Result

from mutual_forcing.orchestration.main import app
from mutual_forcing.orchestration.planning.words import between, counted, duration, money, size


def given(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["plan", *arguments], env={"COLUMNS": "100"})


def test_where_nothing_fits_the_remedy_is_the_last_line_and_it_exits_1() -> None:
    told = given("paper", "--gpus", "4", "--gpu", "a100-40")
    assert told.exit_code == 1
    assert told.stdout.splitlines()[-1] == "nothing fits: on --gpu=h200 it fits"
    told = given("paper", "--gpus", "4", "--gpu", "a100-40", "--json")
    assert told.exit_code == 1
    made = json.loads(told.stdout)
    assert made["remedy"] == "on --gpu=h200 it fits"
    assert made["hours"] is made["cost_high"] is made["layout"] is None


def test_a_small_plan_reads_well() -> None:
    told = given("sc-tf", "--gpus", "1", "--cpus", "8")
    assert told.exit_code == 0
    text = " ".join(told.stdout.split())
    assert "memory with 1 trainer " in text
    assert "1 trainer, ZeRO" in text
    assert "for 1 GPU " in text
    assert "MB of a trainer" in text
    assert "data as they come" not in text  # a step takes milliseconds
    assert not re.search(r"(?<![\d.,])(1 (trainers|GPUs|machines|hours)|0\.0 GB|0 (hours|USD|GB))\b", text)


@pytest.mark.parametrize(
    "option", ["--mfu", "--fp32", "--network", "--upload", "--copy", "--host", "--clips-per-s", "--per-source", "--price"]
)
@pytest.mark.parametrize("value", ["inf", "nan", "1e200"])
def test_a_number_out_of_bounds_is_one_line(option: str, value: str) -> None:
    told = given("demo", option, value, "--json")
    assert told.exit_code == 1
    assert told.stdout == ""
    assert re.fullmatch(rf"error: {option}={value}: must be a number from .*\n", told.stderr.replace("e+200", "e200"))


def test_host_memory_and_cpus_are_options() -> None:
    made = json.loads(given("demo", "--gpus", "2", "--host-memory", "64", "--cpus", "8", "--json").stdout)
    assert made["host"]["limit"] == 64e9
    assert made["host"]["fits"]
    assert made["assumptions"]["cpus"] == {"value": 8, "from": "given"}
    assert given("demo", "--gpus", "2", "--host-memory", "1", "--json").exit_code == 1


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (counted(1, "machine"), "1 machine"),
        (counted(0, "machine"), "0 machines"),
        (duration(0.0042), "4.2 ms"),
        (duration(240), "240 s"),
        (duration(3600), "60 minutes"),
        (duration(3 * 3600), "3.0 hours"),
        (duration(1279 * 3600), "1,279 hours"),
        (money(0.001), "less than a cent"),
        (money(0.01), "1 cent"),
        (money(0.42), "42 cents"),
        (money(3.5), "3.50 USD"),
        (money(194_530.2), "194,530 USD"),
        (money(0), "0 USD"),
        (size(38.2e6), "38.2 MB"),
        (size(1.369e12), "1.4 TB"),
        (between("2 hours", "5 hours"), "2 to 5 hours"),
        (between("90 s", "5 minutes"), "90 s to 5 minutes"),
        (between("1 cent", "1 cent"), "1 cent"),
    ],
)
def test_figures_as_a_person_reads_them(made: str, expected: str) -> None:
    assert made == expected
