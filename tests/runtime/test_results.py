"""What comes out of `trudi run`, and that it comes out whatever becomes of the reader, the terminal or the disk."""

import contextlib
import json
import math
import os
import pty
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from fault_matrix import QUICK, at
from flights import await_line, end, made_bundle, start, until

from trudi.cli import main
from trudi.runtime.bundle import Bundle
from trudi.runtime.commands.common import check_writable, write_json
from trudi.runtime.commands.run import passed
from trudi.runtime.conduct import Course, Plan
from trudi.runtime.errors import TrudiRuntimeError
from trudi.runtime.robots.base import RobotReport

SHORT = ("--seconds", "1", "--rate", "200")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return made_bundle(tmp_path_factory.mktemp("bundles") / "go1")


def options(folder, faults=()):
    (folder / "site.yaml").write_text(json.dumps(QUICK))
    (folder / "faults.yaml").write_text(json.dumps(list(faults)))
    results = ("--json", folder / "report.json", "--record", folder / "to" / "flight.mcap")
    return (*SHORT, "--site", folder / "site.yaml", "--faults", folder / "faults.yaml", *results)


def report_of(folder):
    return json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("faults,code", [((), 0), (at("engine_error"), 1)], ids=["flight", "fault"])
def test_a_reader_that_has_gone_ends_neither_the_flight_nor_its_exit_code(faults, code, bundle, tmp_path):
    process = start("run", bundle, *options(tmp_path, faults))
    try:
        process.stdout.close()
        assert process.wait(30) == code, process.stderr.read()
    finally:
        end(process)
    assert report_of(tmp_path)["recordings"] == [str(tmp_path / "to" / "flight.mcap")]
    assert process.returncode == code and len(report_of(tmp_path)["faults"]) == code


def fill(terminal, left=0):
    """Writes to a terminal that nobody reads all that it takes, but for `left` bytes; how much that was."""
    most = sys.maxsize
    if left:
        probe = pty.openpty()
        most = fill(probe[1]) - left
        for descriptor in probe:
            os.close(descriptor)
    total = 0
    os.set_blocking(terminal, False)
    with contextlib.suppress(BlockingIOError):
        while total < most:
            total += os.write(terminal, b"." * min(80, most - total))
    os.set_blocking(terminal, True)
    return total


def test_a_terminal_that_stalls_keeps_nothing_but_the_page(bundle, tmp_path):
    """Nobody reads a pseudo-terminal: after two tables it takes no more. The robot is driven to the end, all is saved."""
    ours, theirs = pty.openpty()
    fill(theirs, left=3000)
    argv = [sys.executable, "-m", "trudi.cli", "run", bundle, *options(tmp_path), "--seconds", "4"]
    process = subprocess.Popen(list(map(str, argv)), stdout=theirs, stderr=subprocess.PIPE, text=True)
    try:
        os.close(theirs)
        result = tmp_path / "report.json"
        until(lambda: result.exists() and result.read_text().endswith("}\n"), "the result is written", timeout_s=40.0)
        report = report_of(tmp_path)
        assert report["ended"] == "after the 4 s that were asked for" and report["recordings"]
        assert process.poll() is None, "the page waits for the terminal"
        threading.Thread(target=drain, args=(ours,), daemon=True).start()
        assert process.wait(20) == 0
    finally:
        end(process)


def drain(descriptor):
    try:
        while os.read(descriptor, 65536):
            pass
    except OSError:  # the other side is closed
        os.close(descriptor)


def test_a_recording_that_was_asked_for_and_cannot_be_written_fails_the_run(bundle, tmp_path):
    process = start("run", bundle, *options(tmp_path))
    try:
        await_line(process, ": ACTIVE")
        shutil.rmtree(tmp_path / "to")
        (tmp_path / "to").write_text("a file where the folder was")
        said, errors = process.communicate(timeout=30)
        assert process.returncode == 1, said + errors
    finally:
        end(process)
    assert report_of(tmp_path)["recordings"] == [] and report_of(tmp_path)["recording_error"]
    assert "flight  not written: " in said


def test_what_fails_a_run():
    asked, late, unsafe = Plan(1.0, record_end=True), "command 7 (ACTIVE): made 3 ms ago: expired", "a target outside"
    assert passed(Course(), None, asked) and passed(Course(), RobotReport(), asked)
    assert not passed(Course(refusal="no"), None, asked)
    assert not passed(Course(unsaved="no"), None, asked) and passed(Course(unsaved="no"), None, Plan(1.0))
    assert passed(Course(), RobotReport((late,), 1), asked)
    assert not passed(Course(), RobotReport((late, unsafe), 2), asked)
    assert not passed(Course(), RobotReport((late,) * 100, 101), asked), "one that the report has no sentence for"


def test_json_is_strict(tmp_path):
    nothing = (math.nan, math.inf, -math.inf, np.float64("nan"))
    content = {"a": nothing, "b": {"c": [math.nan, 1.5, "NaN", True, None]}, "d": np.float64(0.1)}
    write_json(tmp_path / "result.json", content)
    read = json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    assert read == {"a": [None] * 4, "b": {"c": [None, 1.5, "NaN", True, None]}, "d": 0.1}


def test_targets_are_tried_and_left_as_they_were(tmp_path):
    check_writable("--json", tmp_path / "new" / "folder" / "x.json")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "x.json").write_text("before")
    check_writable("--json", tmp_path / "x.json")
    assert (tmp_path / "x.json").read_text() == "before"
    for special in (None, os.devnull):
        check_writable("--json", special and tmp_path / special)
    with pytest.raises(TrudiRuntimeError, match=r"--json .* cannot be written: "):
        check_writable("--json", tmp_path / "x.json" / "y.json")


def test_a_replay_refuses_what_cannot_be_written_before_it_computes(bundle, tmp_path, capsys):
    argv = ["replay", str(tmp_path / "none.mcap"), "--bundle", str(bundle), "--json", "/proc/nothing/x.json"]
    assert main(argv) == 2
    assert "--json /proc/nothing/x.json cannot be written" in capsys.readouterr().err


def test_ctrl_c_before_the_flight_is_one_line(bundle, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Bundle, "open", interrupted)
    assert main(["run", str(bundle)]) == 130
    assert capsys.readouterr().err == "trudi run: interrupted\n"
