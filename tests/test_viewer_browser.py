"""A headless Chromium opens the viewer of a trained run, which must show at once what the model renders there, whatever
output is chosen, and the panel of the rounds."""

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


def screen(browser) -> np.ndarray:
    """[H, W, 3] in [0, 1] all that the viewer's canvas shows."""
    boxes = browser.execute_script(
        "return [...document.querySelectorAll('canvas')].map(c => c.getBoundingClientRect())"
        ".map(r => [r.x, r.y, r.width, r.height])"
    )
    left, top, width, height = min(boxes, key=lambda box: box[2])  # another one lies over it, and under the panel
    shot = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
    return np.asarray(shot.crop((left, top, left + width, top + height))) / 255.0


def free(image: np.ndarray) -> np.ndarray:
    """A picture of the whole canvas without the axes at its lower left."""
    return image[: int(0.75 * len(image))]


@pytest.fixture(scope="module")
def rendered(trained_run):
    """`rendered(name, height, width)`: [H, W, 3] in [0, 1] what the viewer has to show when it opens."""
    import torch
    from nerfstudio.utils.colormaps import ColormapOptions, apply_colormap

    from genfusion_ns.cameras import Camera
    from genfusion_ns.plugin.bridge import opening_view
    from genfusion_ns.plugin.runs import load_run

    run = load_run(trained_run)
    view, _ = opening_view(run.training_cameras, frustum=0.01)
    run.pipeline.model.set_background(torch.tensor([38, 42, 55]) / 255.0)  # the viewer's
    run.pipeline.eval()

    def render(name: str, height: int, width: int) -> np.ndarray:
        focal = float(view.K[1, 1]) * height / view.height
        K = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
        with torch.no_grad():
            outputs = run.pipeline.model.render_outputs(Camera(view.w2c, K, width, height))
        colours = ColormapOptions(colormap="turbo" if outputs[name].shape[-1] == 1 else "default", normalize=True)
        return apply_colormap(outputs[name], colours).numpy()

    return render


def test_the_screen_shows_what_the_model_renders_from_the_first_moment(viewer, browser, rendered):
    """No photo before the splat, nothing to be clicked away; choosing an output changes the picture by itself."""
    from selenium.webdriver.common.by import By

    def find(xpath):
        return browser.find_elements(By.XPATH, xpath)

    def distance(name):
        shown = screen(browser)
        return float(np.abs(free(shown) - free(rendered(name, *shown.shape[:2]))).mean())

    def explain():
        return f"differences of the screen: { ({name: round(distance(name), 3) for name in names}) }"

    browser.get(viewer)
    wait_for(lambda: find("//label[text()='Output type']"), 60, lambda: "no panel")
    box = browser.find_element(By.ID, find("//label[text()='Output type']")[0].get_attribute("for"))
    names = ("rgb", "depth", "normal", "trust")
    for name in names:
        if name != "rgb":
            box.click()
            wait_for(lambda name=name: find(f"//*[@role='option'][.='{name}']"), 20, lambda: "no such output")[
                0
            ].click()
        wait_for(lambda name=name: distance(name) < 0.04, 60, explain)
        assert box.get_attribute("value") == name
        assert min(distance(other) for other in names if other != name) > 0.08


def test_the_panel_tells_of_the_rounds_of_a_trained_run(viewer, browser):
    from selenium.webdriver.common.by import By

    browser.get(viewer)
    wait_for(lambda: browser.find_elements(By.XPATH, "//label[text()='Output type']"), 60, lambda: "no panel")
    text = browser.find_element(By.TAG_NAME, "body").text
    assert "1 done" in text and "round 1 at step 40" in text and "Hide invented Gaussians" in text
    assert "Run a round now" not in text and "Pause rounds" not in text  # nothing is trained here
    shown = browser.find_elements(By.XPATH, "//img[@alt='rows: before, after, confidence']")
    assert shown and int(shown[0].get_attribute("naturalWidth")) == 4 * 32
