"""A photograph, and a browser that opens pages."""

import shutil

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photograph(wheel_media):
    """A photograph, uint8 [H, W, 3]."""
    with Image.open(wheel_media("scikit-image", "coffee.png")) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium, the one on PATH."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs chromium on PATH (Debian and Ubuntu: apt install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()
