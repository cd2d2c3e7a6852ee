"""A headless Chromium for tools and tests: the machine's own, driven by playwright.

    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1200, "height": 800})

The environment variable CHROMIUM names one; else it is looked for on the PATH, else playwright's own is taken.
"""
import contextlib
import os
import shutil
import subprocess

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]  # root has no sandbox, containers little /dev/shm
APT = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"]


class NoBrowser(RuntimeError):
    """There is no Chromium, or no playwright; the message says what would bring them."""


def find_chromium() -> str | None:
    """The path of a browser: that of CHROMIUM, one on the PATH, or the one that playwright has downloaded."""
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found:
        return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if os.path.isfile(path) else None


def install_chromium(timeout: float = 240):
    """Debian's package, as root; NoBrowser with the reason where that is not possible."""
    if os.getuid() or not shutil.which("apt-get"):
        raise NoBrowser("no Chromium here (apt-get install chromium, or CHROMIUM=/path/to/it), and only root could do it now")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (APT, ["apt-get", "update", "-qq"], APT):
        try:
            result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise NoBrowser(f"{' '.join(command)} took more than {timeout:g} s") from error
        if command is APT and not result.returncode:
            return
    raise NoBrowser(f"Chromium cannot be installed: {result.stderr.strip()[-300:]}")


@contextlib.contextmanager
def browser(install: bool = False):
    """A running browser; install: bring Chromium where it is missing. Raises NoBrowser."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise NoBrowser("playwright is not installed: pip install playwright") from error
    if not find_chromium() and install:
        install_chromium()
    if not (path := find_chromium()):
        raise NoBrowser("no Chromium here: apt-get install chromium, or CHROMIUM=/path/to/it")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()
