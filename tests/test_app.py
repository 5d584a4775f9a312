"""The page, without a browser and then in one: headless Chromium, as a person would use it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import superpoint_jax as sp
from superpoint_jax.app.answers import MOST_KEYPOINTS, Page
from superpoint_jax.bulk.hloc import names_in
from superpoint_jax.cli import main

pytest.importorskip("gradio")

PROGRAM = "import sys; from superpoint_jax.cli import main; sys.exit(main())"
APP = [sys.executable, "-c", PROGRAM, "app", "--no-browser"]


@pytest.fixture(scope="module")
def page():
    page = Page(sp.from_pretrained())
    yield page
    page.close()


def test_the_sliders_choose_what_extract_would(page, photos, tmp_path):
    path = tmp_path / "coffee.png"
    Image.fromarray(photos["coffee"]).save(path)
    shown = page.show([path], threshold=0.05, max_keypoints=100)
    assert shown.text == "**100 keypoints**"
    (entry,) = json.loads(shown.downloads[0].read_text())
    (direct,) = sp.extract_images(sp.from_pretrained(), [path], max_keypoints=100, keypoint_threshold=0.05)
    np.testing.assert_allclose(entry["keypoints"], np.asarray(direct.keypoints).round(3), atol=1e-3)
    few = page.show([path], threshold=0.5, max_keypoints=MOST_KEYPOINTS)
    (strong,) = sp.extract_images(sp.from_pretrained(), [path], max_keypoints=MOST_KEYPOINTS, keypoint_threshold=0.5)
    count = len(strong.scores)
    assert 0 < count < MOST_KEYPOINTS
    assert few.text == f"**{count} keypoints**"


def test_two_photos_are_matched_and_their_files_hold_what_is_shown(page):
    first, second = page.example()
    shown = page.show([first, second], threshold=page.threshold, max_keypoints=300)
    content = json.loads(shown.downloads[0].read_text())
    assert [row["image"] for row in content["keypoints"]] == [str(first), str(second)]
    assert content["match"]["model"] == "homography"
    assert f"**{len(content['match']['scores'])} matches**" in shown.text
    assert sum(content["match"]["inliers"]) > 100
    assert names_in(shown.downloads[1]) == ["example_a.png", "example_b.png"]
    with h5py.File(shown.downloads[1]) as file:
        assert file["example_a.png/descriptors"].shape == (256, 300)
    with Image.open(shown.picture) as picture:
        assert picture.width > picture.height
    # The same file twice has two names in the file.
    assert len(names_in(page.show([first, first], threshold=0.1, max_keypoints=50).downloads[1])) == 2


def test_what_cannot_be_shown_is_said(page, tmp_path, photos):
    (tmp_path / "a.jpg").write_text("no image")
    blank = tmp_path / "blank.png"
    Image.fromarray(np.zeros((80, 80), np.uint8)).save(blank)
    with pytest.raises(sp.ImageError, match=r"a\.jpg: not an image"):
        page.show([tmp_path / "a.jpg"], threshold=0.0, max_keypoints=10)
    with pytest.raises(ValueError, match="3 photos were given"):
        page.show([blank] * 3, threshold=0.0, max_keypoints=10)
    assert "**0 matches**, no homography was found" in page.show([blank, blank], threshold=0.1, max_keypoints=9).text


def test_what_is_remembered_is_bounded_and_follows_the_file(page, tmp_path, photos):
    path = tmp_path / "photo.png"
    texts = []
    for name in ("coffee", "camera"):
        Image.fromarray(photos[name]).save(path)
        texts.append(page.show([path], threshold=0.3, max_keypoints=MOST_KEYPOINTS).text)
    assert texts[0] != texts[1]
    for side in range(100, 110):
        Image.fromarray(np.zeros((side, 100), np.uint8)).save(tmp_path / f"{side}.png")
        page.show([tmp_path / f"{side}.png"], threshold=0.1, max_keypoints=9)
    assert len(page._remembered) <= 8


def test_without_its_extra_the_command_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr("superpoint_jax.app.page.find_spec", lambda name: None)
    assert main(["app"]) == 2
    assert "pip install 'superpoint-jax[app]'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_port_in_use_is_told():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run([*APP, "--port", str(port)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert f"can't serve the page at 127.0.0.1:{port}" in done.stderr


@pytest.fixture
def address(tmp_path):
    """The page as the command serves it, without a network to lean on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [*APP, "--port", str(port)]
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    environment = os.environ | nowhere | {"XLA_FLAGS": "", "no_proxy": "127.0.0.1,localhost"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        url = f"http://127.0.0.1:{port}/"
        for _ in range(240):
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture
def browser(tmp_path):
    from selenium import webdriver

    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.skip("the page is tested in Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for argument in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1000",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(paths[1]))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_person_in_the_browser(browser, address, tmp_path, photos):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.wait import WebDriverWait

    def find(css):
        return browser.find_element(By.CSS_SELECTOR, css)

    def text_with(words, seconds=90):
        WebDriverWait(browser, seconds).until(lambda b: words in find("body").text, f"{words!r} never came")

    def picture():
        found = browser.find_elements(By.CSS_SELECTOR, "#picture img")
        return found[0].get_attribute("src") if found else None

    browser.get(address)
    text_with("Try an example")
    # From nothing to matches between two photos: one click.
    find("#example").click()
    text_with("of them inliers of a homography")
    WebDriverWait(browser, 30).until(lambda _: picture())
    shown = int(find("#text").text.split(" matches")[0].split()[-1])
    assert shown > 300
    size = browser.execute_script(
        "const i = document.querySelector('#picture img'); return [i.naturalWidth, i.naturalHeight]"
    )
    assert size[0] > 400
    for name in ("keypoints.json", "features.h5", "picture.png"):
        assert name.split(".")[0] in find("#downloads").text
    if folder := os.environ.get("SCREENSHOTS"):
        browser.set_window_size(1400, 1000)
        time.sleep(2)
        browser.save_screenshot(str(Path(folder) / "app.png"))
    choices = browser.find_elements(By.CSS_SELECTOR, "#matcher input[type=radio]")
    assert [(choice.get_attribute("value"), choice.is_selected()) for choice in choices] == [
        ("nearest", True),
        ("lightglue", False),
    ]
    # Fewer keypoints: the same photos, fewer matches.
    field = find("#max_keypoints input[type=number]")
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys("64", Keys.TAB)
    text_with("64 and 64 keypoints")
    # Photos of one's own: chosen together, in one dialogue.
    for name in ("coffee", "camera"):
        Image.fromarray(photos[name]).save(tmp_path / f"{name}.png")
    browser.get(address)
    text_with("Try an example")
    find("#photos input[type=file]").send_keys(f"{tmp_path / 'coffee.png'}\n{tmp_path / 'camera.png'}")
    text_with("homography")
    # What is downloaded is what is shown.
    links = {link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "#downloads a")}
    (table,) = [link for link in links if link and link.endswith("keypoints.json")]
    content = json.loads(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(table).read())
    first, second = (len(row["keypoints"]) for row in content["keypoints"])
    assert first > 100
    assert f"{first} and {second} keypoints" in find("#text").text
    # No image: a message that names the file, and the page goes on.
    (tmp_path / "letter.jpg").write_text("Dear all,")
    browser.get(address)
    text_with("Try an example")
    find("#photos input[type=file]").send_keys(str(tmp_path / "letter.jpg"))
    text_with("letter.jpg: not an image")
    assert str(tmp_path) not in find("body").text
    find("#example").click()
    text_with("of them inliers of a homography")
    # Nothing was asked of the network.
    asked = {
        message["params"]["request"]["url"]
        for message in (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
        if message["method"] == "Network.requestWillBeSent"
    }
    elsewhere = {url for url in asked if not url.startswith((address, "data:", "blob:", "chrome"))}
    assert not elsewhere


def test_the_presets_threshold_is_where_the_page_begins(page):
    assert page.threshold == sp.from_pretrained().config.keypoint_threshold
