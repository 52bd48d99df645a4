"""`nccid-fetch demo`: what a newcomer runs first, as a process, on whatever machine they have."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nccid_fetch.cli.main import main
from nccid_fetch.demo.synthetic import warehouse
from nccid_fetch.warehouse import BUCKET

BIN = Path(sys.executable).parent
DEMO = [str(BIN / "nccid-fetch"), "demo"]


@pytest.fixture(scope="module")
def objects() -> dict[str, bytes]:
    return {item.key.removeprefix("training/"): item.body for item in warehouse()}


def demo(*arguments: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*DEMO, *map(str, arguments)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_it_fetches_everything_then_nothing_and_leaves_nothing_behind(
    objects: dict[str, bytes], tmp_path: Path
) -> None:
    done = demo(TMPDIR=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^(fetched|skipped) +([\d,]+) objects", done.stdout, re.MULTILINE) == [
        *(("fetched", f"{len(objects):,}"), ("skipped", "0")),
        *(("fetched", "0"), ("skipped", f"{len(objects):,}")),
    ]
    assert "$ nccid-fetch all --concurrency 64" in done.stdout
    assert not list(tmp_path.iterdir())


def test_json_is_the_summary_of_one_run_and_dest_keeps_the_tree(
    objects: dict[str, bytes], tmp_path: Path, scrubbed_environment: Path
) -> None:
    """And neither the shell's settings, nor ~/.aws, nor a proxy leads it elsewhere: nobody listens there."""
    config = scrubbed_environment / ".aws" / "config"
    config.parent.mkdir()
    config.write_text("[default]\nregion = us-east-1\nendpoint_url = http://127.0.0.1:9\nca_bundle = /nowhere\n")
    elsewhere = {
        "AWS_PROFILE": "nobody",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_CONFIG_FILE": str(config),
        "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9",
        "NCCID_FETCH_BUCKET": "another-bucket",
        "NCCID_FETCH_DEST": str(tmp_path / "real"),
        "NCCID_DATA_DIR": str(tmp_path / "real"),
    }
    dest = tmp_path / "demo"
    done = demo("--format", "json", "--dest", dest, **elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert (summary["command"], summary["bucket"], summary["exit_code"]) == ("all", BUCKET, 0)
    assert summary["fetched"]["objects"] == summary["verified"]["md5"] == len(objects)
    assert objects == {
        str(path.relative_to(dest)): path.read_bytes()
        for path in dest.rglob("*")
        if path.is_file() and ".nccid-fetch" not in path.parts
    }
    assert not (tmp_path / "real").exists()


def test_it_does_not_mix_made_up_patients_into_a_tree_of_real_ones(tmp_path: Path) -> None:
    """The demo's bucket has the real one's name, so the journal of a real tree would not refuse it."""
    (tmp_path / "data").mkdir()
    done = demo("--dest", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: --dest {tmp_path} is not empty\n")
    assert [path.name for path in tmp_path.rglob("*")] == ["data"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_serve_prints_what_leads_any_client_to_it_and_a_signal_ends_it(
    objects: dict[str, bytes], number: signal.Signals
) -> None:
    with subprocess.Popen([*DEMO, "--serve"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        assert served.stderr is not None
        assert served.stderr.readline().startswith(f"{len(objects)} objects in {BUCKET}; ")
        lines = "".join(served.stdout.readline() for _ in range(5))
        environment = dict(re.findall(r"^export ([A-Z_]+)=(\S+)$", lines, re.MULTILINE))
        listed = subprocess.run(
            [BIN / "rclone", "--config", os.devnull, "lsf", "-R", "--files-only", f":s3,env_auth:{BUCKET}/training"],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        served.send_signal(number)
        assert served.wait(110) == 0
        assert (served.stdout.read(), served.stderr.read()) == ("", "")
    assert listed.returncode == 0, listed.stderr
    assert set(listed.stdout.splitlines()) == objects.keys()


def test_serve_in_json_prints_one_object_while_it_serves() -> None:
    command = [*DEMO, "--serve", "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        assert served.stderr is not None
        assert " objects in " in served.stderr.readline()
        served.send_signal(signal.SIGTERM)
        assert served.wait(110) == 0
        told = json.loads(served.stdout.read())
    assert (told["schema"], told["exit_code"]) == ("nccid-fetch/serve/1", 0)
    assert told["environment"]["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")


@pytest.mark.parametrize("arguments", [[], ["--serve"]], ids=["demo", "demo --serve"])
def test_without_its_extra_it_says_how_to_install_it(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("nccid_fetch.demo.find_spec", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["nccid-fetch", "demo", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr() == ("", "error: the demo needs its extra\nhint: pip install 'nccid-fetch[demo]'\n")
