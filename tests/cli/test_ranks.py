"""What ranks say, and which of them; without other processes: each is this one with another environment."""

import json
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed

from hypergrad import cli
from hypergrad.cli import ranks
from hypergrad.cli.console import plain_warnings
from hypergrad.cli.entry import SUMMARIES
from hypergrad.errors import HypergradWarning, InvalidInputError
from hypergrad.messages import warn

TORCHRUN = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500", "LOCAL_RANK": "0"}


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The status of a command as a rank has it; all of them write to one store."""
    store = distributed.HashStore()
    monkeypatch.setattr(ranks, "rendezvous", lambda url, timeout: iter([(store, 0, 2)]))

    def run(number: int, *arguments: str, **environment: str) -> int:
        with monkeypatch.context() as patch:
            for name, value in {**TORCHRUN, "RANK": str(number), **environment}.items():
                patch.setenv(name, value)
            return cli.main(list(arguments))

    return run


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_first_rank_with_an_error_tells_it_and_names_itself(
    rank: Any, capsys: pytest.CaptureFixture[str], order: tuple[int, int]
) -> None:
    statuses = [rank(number, "train", "--learning-rate", "1") for number in order]
    lines = capsys.readouterr().err.splitlines()
    who = "hypergrad" if order[0] == 0 else "hypergrad: rank 1"
    assert statuses == [2, 2]
    assert len(lines) == 1
    assert lines[0].startswith(f"{who}: error: --learning-rate: there is no such option.")


def test_a_restart_tells_its_errors_again(rank: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for attempt in ("0", "1"):
        for number in (0, 1):
            rank(number, "train", "--resume", "nowhere", TORCHELASTIC_RESTART_COUNT=attempt)
    assert capsys.readouterr().err.count("nowhere is no run of hypergrad") == 2


@pytest.mark.parametrize("command", [name for name in SUMMARIES if name != "train"])
def test_other_commands_are_refused(rank: Any, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert rank(0, command, "--help") == 2
    assert f"`hypergrad {command}` was started as several ranks" in capsys.readouterr().err


def test_only_the_first_rank_prints(rank: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert rank(1, "train", "--recipe", "cpu", "--print-config") == 0
    assert capsys.readouterr().out == ""
    assert rank(0, "train", "--recipe", "cpu", "--print-config") == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "cpu"


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({"RANK": "2"}, "RANK='2', WORLD_SIZE='2'"),
        ({"RANK": "-1"}, "RANK='-1'"),
        ({"RANK": ""}, "lacks RANK"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'"),
        ({"MASTER_ADDR": ""}, "lacks MASTER_ADDR"),
    ],
)
def test_an_environment_that_cannot_be(
    rank: Any, capsys: pytest.CaptureFixture[str], environment: dict[str, str], told: str
) -> None:
    assert rank(0, "train", **environment) == 2
    error = capsys.readouterr().err
    assert told in error and "Start them by torchrun" in error


def test_one_process_needs_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for environment in ({}, {"RANK": "0", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "4"}):
        with ranks.met(environment) as found:
            assert found is None and ranks.current() is None


def test_a_warning_of_all_is_shown_once_and_one_of_a_rank_with_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    store = distributed.HashStore()
    every = [ranks.Ranks(number, 2, store) for number in (0, 1)]
    for number in (0, 1):
        with warnings.catch_warnings(), plain_warnings(every[number].name, every[number].first):
            warnings.simplefilter("always")
            pass_on("all have it")
            if number:
                pass_on("one has it")
    assert capsys.readouterr().err == ("hypergrad: warning: all have it\nhypergrad: rank 1: warning: one has it\n")


def pass_on(text: str) -> None:
    warn(text, HypergradWarning)


@pytest.mark.parametrize(
    ("device", "gpus", "local", "told"),
    [("cuda:1", 2, "0", "names one GPU"), ("cuda", 1, "1", "finds 1 GPUs"), ("auto", 2, "2", "nproc-per-node 2")],
)
def test_each_rank_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, device: str, gpus: int, local: str, told: str
) -> None:
    monkeypatch.setenv("LOCAL_RANK", local)
    with pytest.raises(InvalidInputError, match=told):
        ranks._choose_gpu(device, gpus)


def test_it_takes_the_gpu_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    ranks._choose_gpu("auto", 2)
    assert chosen == [1]


def test_a_lost_rank_is_told_from_an_error_of_ones_own() -> None:
    assert ranks.lost_contact(RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer"))
    assert ranks.lost_contact(distributed.DistBackendError("NCCL error"))
    assert not ranks.lost_contact(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not ranks.lost_contact(InvalidInputError("gloo"))


def test_a_store_that_is_gone_silences_nobody() -> None:
    server = distributed.TCPStore("127.0.0.1", 0, is_master=True, timeout=timedelta(seconds=2))
    client = distributed.TCPStore("127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=2))
    del server
    assert ranks.Ranks(1, 2, client).first("error")


def test_a_folder_is_not_made_by_a_refused_rank(rank: Any, tmp_path: Path) -> None:
    assert rank(1, "train", "--output", str(tmp_path / "run"), "--epochs", "0") == 2
    assert not (tmp_path / "run").exists()
