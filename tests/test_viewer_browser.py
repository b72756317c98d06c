"""A headless Chromium opens the viewer of a trained run, which must show a picture of the scene at once, its `normal`
and `trust`, and the panel of the rounds."""

from __future__ import annotations

import copy
import io
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium or chromedriver is not installed"),
]

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--window-size=1000,700",
)


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory) -> Path:
    """config.yml of a small run with one round on the procedural scene."""
    from nerfstudio.configs.method_configs import all_methods

    from genfusion_ns.commands.make_scene import MakeScene, run

    folder = tmp_path_factory.mktemp("viewer")
    run(MakeScene(out=folder / "scene", size=(64, 36), views=10, points=600, supersample=1))
    config = copy.deepcopy(all_methods["genfusion-cpu"])
    data = config.pipeline.datamanager
    data.data = folder / "scene"
    data.max_seed_points, data.initial_points, data.reference_iterations = 600, "all", 60
    data.loop.start, data.loop.every, data.loop.until = 40, 40, 50
    data.loop.frames, data.loop.clip_length, data.loop.max_side, data.loop.trajectories = 4, 4, 32, ("orbit",)
    config.output_dir, config.experiment_name, config.timestamp = folder / "runs", "tiny", "run"
    config.vis, config.max_num_iterations, config.steps_per_save = "tensorboard", 60, 60
    trainer = config.setup(local_rank=0, world_size=1)
    config.save_config()
    trainer.setup()
    trainer.train()
    return config.get_base_dir() / "config.yml"


@pytest.fixture(scope="module")
def viewer(trained_run):
    """Address of `ns-viewer` on that run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("ns-viewer")), "--load-config", str(trained_run)]
    command += ["--viewer.websocket-port", str(port), "--viewer.websocket-host", "127.0.0.1"]
    log = trained_run.parent / "viewer.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(lambda: answers(address) or process.poll() is not None, 400, lambda: log.read_text())
        assert process.poll() is None, log.read_text()
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def browser(tmp_path):
    """A fresh headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER, env=dict(os.environ)))
    try:
        yield driver
    finally:
        driver.quit()


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def wait_for(condition, seconds: float, explain):
    """The first truthy value of `condition()`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.5)
    pytest.fail(f"not seen within {seconds:.0f} s: {explain()}")


def picture(browser) -> np.ndarray:
    """[H, W, 3] what the viewer's canvas shows, without the panel at its right and the axes at its lower left."""
    shot = np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")).astype(float)
    return shot[80:460, 80:660]


def varied(image: np.ndarray) -> bool:
    """A picture of something: neither one colour nor a few specks on one colour."""
    background = np.median(image.reshape(-1, 3), axis=0)
    return image.std() > 8 and (np.abs(image - background).max(-1) > 12).mean() > 0.1


def test_viewer_shows_the_outputs_and_the_rounds_of_a_trained_run(viewer, browser):
    from selenium.webdriver.common.by import By

    def find(xpath):
        return browser.find_elements(By.XPATH, xpath)

    def panel_text():
        return browser.find_element(By.TAG_NAME, "body").text

    browser.get(viewer)
    wait_for(lambda: find("//label[text()='Output type']"), 60, panel_text)
    # The photos at the training cameras must not pass for a picture.
    find("//button[contains(., 'Hide Train Cams')]")[0].click()
    wait_for(lambda: varied(picture(browser)), 90, panel_text)
    rgb = picture(browser)

    box = browser.find_element(By.ID, find("//label[text()='Output type']")[0].get_attribute("for"))
    assert box.get_attribute("value") == "rgb"

    def switch_to(name):
        box.click()
        wait_for(lambda: find(f"//*[@role='option'][.='{name}']"), 20, panel_text)[0].click()
        assert box.get_attribute("value") == name

    def shows_normals():
        shot = picture(browser)
        return varied(shot) and np.abs(shot - rgb).mean() > 15

    def shows_the_legend():
        """Blue or yellow, and little else: the run's splats are observed or repaired."""
        red, green, blue = picture(browser).reshape(-1, 3).T
        return ((blue - red > 40) | (red - blue > 40) & (green > 90)).mean() > 0.3

    switch_to("normal")
    wait_for(shows_normals, 90, panel_text)
    switch_to("trust")
    wait_for(shows_the_legend, 90, panel_text)

    text = panel_text()
    assert "1 done" in text and "round 1 at step 40" in text and "Hide invented Gaussians" in text
    assert "Run a round now" not in text and "Pause rounds" not in text  # nothing is trained here
    shown = find("//img[@alt='rows: before, after, confidence']")
    assert shown and int(shown[0].get_attribute("naturalWidth")) == 4 * 32
