import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from trudi.train import checkpoint
from trudi.train.checkpoint import Checkpoint, Counters
from trudi.train.errors import TrainError


def make(iteration=3, value=1.0):
    return Checkpoint("envpool:X", Counters(iteration, 10 * iteration, 1.5, None, None), {"a": torch.full((4, 2), value)})


def test_what_is_saved_is_what_is_loaded(tmp_path):
    checkpoint.save(tmp_path, make(), link=checkpoint.LAST, keep=2)
    loaded = checkpoint.load(tmp_path / checkpoint.LAST)
    assert loaded.task == "envpool:X"
    assert loaded.counters == make().counters
    assert torch.equal(loaded.tensors["a"], make().tensors["a"])


def test_a_checkpoint_from_before_processor_time_is_read(tmp_path):
    checkpoint.save(tmp_path, make(), link=checkpoint.LAST, keep=2)
    path = tmp_path / checkpoint.LAST / checkpoint.STATE
    state = json.loads(path.read_text())
    del state["cpu_s"]
    path.write_text(json.dumps(state))
    assert checkpoint.load(tmp_path / checkpoint.LAST).counters == make().counters


def test_only_the_newest_and_the_best_are_kept(tmp_path):
    checkpoint.save(tmp_path, make(1), link=checkpoint.BEST, keep=2)
    for iteration in (2, 3, 4, 5):
        checkpoint.save(tmp_path, make(iteration), link=checkpoint.LAST, keep=2)
    names = sorted(path.name[:16] for path in tmp_path.glob("iteration_*"))
    assert names == ["iteration_000001", "iteration_000004", "iteration_000005"]
    assert checkpoint.load(tmp_path / checkpoint.BEST).counters.iteration == 1
    assert checkpoint.load(checkpoint.find(tmp_path, "4")).counters.iteration == 4


def test_passing_an_iteration_again_keeps_both_links_whole(tmp_path):
    checkpoint.save(tmp_path, make(3, 1.0), link=checkpoint.BEST, keep=2)
    checkpoint.save(tmp_path, make(3, 2.0), link=checkpoint.LAST, keep=2)
    checkpoint.save(tmp_path, make(3, 2.0), link=checkpoint.LAST, keep=2)
    assert float(checkpoint.load(tmp_path / checkpoint.BEST).tensors["a"][0, 0]) == 1.0
    assert float(checkpoint.load(tmp_path / checkpoint.LAST).tensors["a"][0, 0]) == 2.0


def truncate(folder):
    path = folder / checkpoint.TENSORS
    path.write_bytes(path.read_bytes()[:-5])


def flip(folder):
    path = folder / checkpoint.TENSORS
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def half_json(folder):
    path = folder / checkpoint.STATE
    path.write_text(path.read_text()[:40])


def without_hash(folder):
    path = folder / checkpoint.STATE
    state = json.loads(path.read_text())
    del state["sha256"]
    path.write_text(json.dumps(state))


def future(folder):
    path = folder / checkpoint.STATE
    path.write_text(path.read_text().replace('"format": 1', '"format": 99'))


@pytest.mark.parametrize(
    "harm,says",
    [
        (truncate, r"damaged: .*\(truncated or altered\)"),
        (flip, r"damaged: .*\(truncated or altered\)"),
        (half_json, "not valid JSON"),
        (without_hash, "lacks sha256"),
        (future, "format 99, this version reads 1"),
        (lambda folder: (folder / checkpoint.TENSORS).unlink(), "state.safetensors is missing"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_name(tmp_path, harm, says):
    checkpoint.save(tmp_path, make(2), link=checkpoint.LAST, keep=5)
    harm(checkpoint.save(tmp_path, make(3), link=checkpoint.LAST, keep=5))
    with pytest.raises(TrainError, match=says):
        checkpoint.load(tmp_path / checkpoint.LAST)
    assert checkpoint.load(checkpoint.find(tmp_path, "2")).counters.iteration == 2


def test_what_does_not_exist_is_said(tmp_path):
    with pytest.raises(TrainError, match="no checkpoint at"):
        checkpoint.load(tmp_path / checkpoint.LAST)
    with pytest.raises(TrainError, match="available: none"):
        checkpoint.find(tmp_path, "7")
    with pytest.raises(TrainError, match="unknown checkpoint 'newest'; use last, best"):
        checkpoint.find(tmp_path, "newest")


FILL = """
import os, sys, torch
from pathlib import Path
from trudi.train import checkpoint
from trudi.train.checkpoint import Checkpoint, Counters
from trudi.train.errors import TrainError
folder = Path(sys.argv[1])
small = {"a": torch.zeros(10)}
checkpoint.save(folder, Checkpoint("t", Counters(1, 0, 0.0, None, None), small), link="last", keep=2)
try:
    big = {"a": torch.zeros(2_000_000)}
    checkpoint.save(folder, Checkpoint("t", Counters(2, 0, 0.0, None, None), big), link="last", keep=2)
except TrainError as error:
    assert "the disk is full" in str(error) and "earlier checkpoints are intact" in str(error), error
    assert checkpoint.load(folder / "last").counters.iteration == 1
    assert sorted(p.name[:9] for p in folder.iterdir()) == ["iteration", "last"], list(folder.iterdir())
    print("refused")
"""


def test_a_full_disk_leaves_the_last_checkpoint_intact(tmp_path):
    """A real full file system: a tmpfs of 4 MB in a mount namespace of our own."""
    script = tmp_path / "fill.py"
    script.write_text(FILL)
    disk = tmp_path / "disk"
    disk.mkdir()
    inside = f"mount -t tmpfs -o size=4m tmpfs {disk} && {sys.executable} {script} {disk}"
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs unshare (util-linux) for a file system of its own")
    flags = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--mount"]
    probe = subprocess.run([unshare, *flags, "mount", "-t", "tmpfs", "tmpfs", str(disk)], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this machine allows no mount namespaces")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([unshare, *flags, "sh", "-c", inside], capture_output=True, text=True, env=env, check=False)
    assert done.stdout.strip() == "refused", done.stderr


KEEP_SAVING = """
import itertools, os, sys, torch
from pathlib import Path
from trudi.train import checkpoint
from trudi.train.checkpoint import Checkpoint, Counters

def save_on():
    for i in itertools.count(1):
        tensors = {"a": torch.full((50_000,), float(i))}
        link = checkpoint.BEST if i % 3 == 0 else checkpoint.LAST
        checkpoint.save(Path(sys.argv[1]), Checkpoint("t", Counters(i, i, 0.0, None, None), tensors), link=link, keep=2)

for line in sys.stdin:  # a process that does nothing but save, for each line; torch is imported once for all
    if (saver := os.fork()) == 0:
        save_on()
    print(saver, flush=True)
    os.waitpid(saver, 0)
    print("gone", flush=True)
"""


def test_a_kill_at_any_moment_leaves_whole_checkpoints(tmp_path):
    """SIGKILL at twenty different moments of a process that does nothing but save."""
    script = tmp_path / "save.py"
    script.write_text(KEEP_SAVING)
    folder = tmp_path / "checkpoints"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    survived = 0
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, str(script), str(folder)], env=env, **pipes) as process:
        for kill in range(20):
            print(file=process.stdin)
            saver = int(process.stdout.readline())
            time.sleep(0.03 + 0.0113 * kill)
            os.kill(saver, signal.SIGKILL)
            assert process.stdout.readline() == "gone\n"
            for path in [
                *folder.glob("iteration_*"),
                *(folder / name for name in ("last", "best") if (folder / name).is_symlink()),
            ]:
                loaded = checkpoint.load(Path(path))
                assert bool((loaded.tensors["a"] == loaded.counters.iteration).all())
                survived += 1
    assert process.returncode == 0 and survived >= 20
