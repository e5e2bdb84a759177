"""``hypergrad diagnose`` on runs of real commands."""

import json
import re
from pathlib import Path

import pytest
import torch

from hypergrad.augment import Policy
from hypergrad.cli import main
from hypergrad.cli.diagnosing import _Finished
from hypergrad.vision.predict import load

TINY = [
    "--data.train-size", "64", "--data.test-size", "40", "--epochs", "1", "--batch-size", "16",
    "--quiet", "--no-pictures", "--threads", "1",
]  # fmt: skip
FEW = ["--batches", "2", "--max-hvps", "3", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a learned policy, and without one."""
    root = tmp_path_factory.mktemp("diagnose")
    madao = ["madao", "--method.every", "2", "--method.lr", "0.5", "--method.damping", "0.5"]
    options = ["--method.solver-options", '{"alpha": 0.25, "num_hvps": 2}']
    assert main(["train", *TINY, "--method", *madao, *options, "--output", str(root / "madao")]) == 0
    assert main(["train", *TINY, "--method", "randaugment", "--output", str(root / "randaugment")]) == 0
    return root


def test_a_learned_policy_at_the_end_of_its_run(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(runs / "madao"), *FEW, "--output", "d.png"]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert out.startswith("madao: madao on digits, small-cnn; the policy that it learned.\n\nDiagnosis:")
    assert "damping 0.5" in out and "0.25  alpha * lambda_max" in out
    assert "policy.mu" in out and out.endswith("picture  d.png\n")
    assert Path("d.png").read_bytes().startswith(b"\x89PNG")


def test_the_point_is_the_run_s(runs: Path) -> None:
    finished = _Finished(runs / "madao", "cpu", trust_code=False)
    policy = Policy.load(runs / "madao" / "policy.json")
    assert bool(policy.pi.any())
    held = finished.objective.hparams
    assert all(torch.equal(held[f"members.madao.policy.{k}"], getattr(policy, k)) for k in ("pi", "mu", "p"))
    state = load(runs / "madao").network.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in finished.network.state_dict().items())
    images, targets, positions = finished.train_batch(1)
    assert images.shape == (16, 1, 8, 8) and len(targets) == len(positions.unique()) == 16
    assert torch.equal(finished.train_batch(1)[0], images)
    assert len(finished.val_batch(0)[1]) == 16


def test_without_a_learned_policy_it_says_so(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", str(runs / "randaugment"), *FEW]) == 0
    assert "no policy was learned, so that of --method fixed is diagnosed" in capsys.readouterr().out
    assert main(["diagnose", str(runs / "randaugment"), *FEW, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["policy"] == "fixed" and content["run"].endswith("randaugment") and content["batches"] == 2
    # A series that nobody configured finds its alpha, and is not blamed for a default.
    assert content["curvature"]["alpha"] == content["curvature"]["alpha_advised"]
    assert not {"alpha-too-large", "alpha-uselessly-small", "noise-redrawn", "asymmetric-product"} & {
        f["name"] for f in content["findings"]
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN"),
        (["none"], "none is no run of hypergrad: it has no config.json"),
        (["stopped"], "stopped has no result.json: the run did not finish"),
        (["RUN", "--batches", "1"], "--batches must be at least 2; got 1"),
        (["RUN", "--max-hvps", "0"], "--max-hvps must be at least 2; got 0"),
        (["RUN", "--output", "x.gif"], "must end in .png, .pdf, .svg; got 'x.gif'"),
        (["RUN", "--bacthes", "2"], "--bacthes: there is no such option. Did you mean '--batches'?"),
    ],
)
def test_refused(runs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("stopped").mkdir()
    for name in ("config.json", "environment.json"):
        Path("stopped", name).write_bytes((runs / "madao" / name).read_bytes())
    words = [str(runs / "madao") if a == "RUN" else a for a in arguments]
    assert main(["diagnose", *FEW, *words]) == 2
    out, err = capsys.readouterr()
    assert not out and message in re.sub(r"\s+", " ", err)
