"""A real browser, headless, for the tests of pages."""

import contextlib
import os
import platform
import shutil
from pathlib import Path

import matplotlib as mpl
import pytest

FETCHED = Path(__file__).parents[1] / ".browser"
ON_PATH = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--headless=shell", "--no-sandbox", "--no-zygote")  # it opens pages of our own, also as root in a container
WEBGL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")  # on the processor


@contextlib.contextmanager
def headless_browser(folder, *flags):
    """TRUDI_BROWSER, what `make` fetched, or one on PATH; with fonts, which a bare machine has none of, in `folder`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no driver for a browser: pip install -e '.[dev]'")
    found = os.environ.get("TRUDI_BROWSER") or (str(FETCHED / "chromium") if (FETCHED / "chromium").exists() else None)
    found = found or next(filter(None, map(shutil.which, ON_PATH)), None)
    if found is None:
        is_fetchable = (platform.system(), platform.machine()) == ("Linux", "x86_64")
        say = pytest.fail if is_fetchable else pytest.skip
        say("no browser: `make .browser/.ready` fetches one for x86-64 Linux, or set TRUDI_BROWSER to a Chromium")
    cache = f"<dir>{Path(mpl.get_data_path()) / 'fonts' / 'ttf'}</dir><cachedir>{folder}</cachedir>"
    (folder / "fonts.conf").write_text(f'<?xml version="1.0"?><fontconfig>{cache}</fontconfig>')
    env = {**os.environ, "FONTCONFIG_FILE": str(folder / "fonts.conf"), "HOME": str(folder)}
    if Path(found).parent == FETCHED:
        libraries = (str(FETCHED / "al2023" / "lib"), os.environ.get("LD_LIBRARY_PATH"))
        env["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, libraries))
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=found, args=[*FLAGS, *flags], env=env)
        yield opened
        opened.close()
