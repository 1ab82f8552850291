"""Outlines on frames, and the pages they end up on."""

import html.parser
import shutil
import subprocess

import numpy as np
import pytest
import surfaces
import torch

import phantoms
from diffrender.errors import ImageError
from diffrender.fit import charts
from diffrender.fit.overlay import FOUND, TRUE, Outline, outline_of, overlay, parts_of
from diffrender.fit.parametric import default_pelvis
from diffrender.fit.report import SHOWN, _chequered, _signed, certainty_picture, fit_report
from diffrender.fit.result import Certainty, Fit, Fitted
from diffrender.fit.simulation import SimulateSettings, cios_camera, simulate
from diffrender.mesh import Mesh
from diffrender.pages import figure, page, section, table

CENTRE, RADIUS = np.array([22.0, 10.0, -31.0]), 25.0


@pytest.fixture(scope="module")
def frame():
    sphere = surfaces.of_ellipsoid(phantoms.Ellipsoid(CENTRE, np.full(3, RADIUS), np.eye(3)), 4)
    bare = SimulateSettings(torso=False, gas=False, femurs=False, spine=False)
    return sphere, simulate([sphere], cios_camera(10, size=128), bare).radiograph


def coloured(picture: np.ndarray, colour) -> np.ndarray:
    return np.argwhere((picture == colour).all(axis=2))


def test_an_outline_runs_where_the_surface_ends(frame):
    sphere, radiograph = frame
    camera = radiograph.camera
    picture = overlay(radiograph, [outline_of(sphere, camera, FOUND, size=512)], 512)
    line = coloured(picture, FOUND)
    # Each pixel of the line, back to a ray: it passes the ball's centre at its radius.
    source, directions = camera.resized((512, 512)).rays(torch.from_numpy(line) + 0.5)
    offset = torch.from_numpy(CENTRE) - source
    miss = torch.linalg.cross(directions, offset.expand_as(directions)).norm(dim=1)
    assert len(line) > 200
    assert miss.max() < RADIUS + 0.3  # a line lies inside, and is 2 pixels of 0.4 mm wide
    assert miss.min() > RADIUS - 1.6


def test_the_last_outline_lies_on_top_and_the_legend_names_all(frame):
    sphere, radiograph = frame
    one, other = (
        outline_of(sphere, radiograph.camera, colour, name) for colour, name in ((TRUE, "truth"), (FOUND, "fit"))
    )
    picture = overlay(radiograph, [one, other])
    inside = picture[:512]
    assert len(coloured(inside, FOUND)) > 200
    assert len(coloured(inside, TRUE)) == 0
    below = picture[512:]
    assert len(coloured(below, FOUND)) > 5
    assert len(coloured(below, TRUE)) > 5


def test_an_outline_of_another_camera_is_refused(frame):
    with pytest.raises(ImageError, match="proportions"):
        overlay(frame[1], [Outline(torch.ones(1, 40, 90, dtype=torch.bool), FOUND)])


def test_parts_are_the_models(frame):
    model = default_pelvis()
    parts = parts_of(model.mesh(), model.parts)
    assert [len(mesh.vertices) for mesh in parts.values()] == [count for _, count in model.parts]
    assert sum(len(mesh.faces) for mesh in parts.values()) == len(model.faces)
    assert float(parts["right hip"].centre[0]) > 0 > float(parts["left hip"].centre[0])


class _Tags(html.parser.HTMLParser):
    """Opened and closed tags match, and nothing is loaded from elsewhere."""

    def __init__(self):
        super().__init__()
        self.open, self.sources, self.images = [], [], 0

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        self.images += tag == "img"
        if tag not in ("meta", "img", "line", "rect", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def checked(text: str) -> _Tags:
    tags = _Tags()
    tags.feed(text.replace("/>", ">"))
    assert tags.open == []
    assert all(source.startswith("data:image/") for source in tags.sources)
    assert "$" not in text.split("</style>")[1].split("<footer>")[0]
    return tags


def test_a_page_is_whole_and_escapes_what_it_is_given():
    drawn = [
        charts.boxes({"a<b": {"fit": [1.0, 2, 3, float("nan")]}, "empty": {"fit": []}}, {"fit": "red"}, "mm"),
        charts.line([3.0, 2.0, 1.5], "cost & more"),
        charts.scatter([1.0, 2], [0.5, 3], "start", "fit"),
        table([["x"], ["<script>"]]),
        figure(np.zeros((4, 5, 3), np.uint8), 'a "caption" <b>'),
    ]
    text = page("Title & <i>", [section("One", part) for part in drawn])
    assert checked(text).images == 1
    assert "<script>" not in text
    assert "Research use only" in text
    assert "nan" not in text
    assert charts.line([1.0], "one step") == ""


def test_stages_are_cut_where_the_cost_rises():
    assert charts.stages_of([9.0, 4.0, 4.0, 30.0, 20.0, float("nan"), 25.0]) == [[9.0, 4.0, 4.0], [30.0, 20.0], [25.0]]
    assert charts.fallen([9.0, 6.5, 4.0]) == [1.0, 0.5, 0.0]
    assert charts.fallen([2.0]) == [0.0]
    assert charts.stages_of([]) == []


def test_box_plots_stand_at_their_medians():
    text = charts.boxes({"g": {"fit": [10.0] * 5, "start": [20.0] * 5}}, {"start": "a", "fit": "b"}, "mm")
    heights = [float(part.split('y="')[1].split('"')[0]) for part in text.split("<rect ")[1:3]]
    floor = charts.HEIGHT - charts.BELOW
    assert (floor - heights[0]) / (floor - heights[1]) == pytest.approx(2.0, rel=0.02)


@pytest.fixture(scope="module")
def fitted():
    """A frame, a fit that tells of it, and the mesh where it began."""
    model = default_pelvis()
    camera = cios_camera(size=64)
    body = model.mesh()
    parts = parts_of(body, model.parts)
    bare = SimulateSettings(torso=False, gas=False, femurs=False, spine=False)
    radiograph = simulate(parts, camera, bare).radiograph
    image = radiograph.pixels[0]
    certainty = Certainty(
        torch.eye(6), torch.full((6,), 0.1), 6.5, 0.8, torch.rand(len(body.vertices), 3), {"FH-l": torch.ones(3)}
    )
    frame = Fitted(image, image, image - image.mean(), torch.zeros(3, 64, 64, dtype=torch.bool))
    pose, shape, turn, said = torch.eye(4), torch.zeros(2), torch.zeros(3), "It lies < there."
    fit = Fit(body, pose, shape, turn, {}, "converged", said, certainty, (frame,), (3.0, 2.0))
    return radiograph, fit, model, Mesh(body.vertices + 5, body.faces)


def test_the_report_of_a_fit_shows_before_after_and_certainty(fitted):
    radiograph, fit, model, start = fitted
    tags = checked(text := fit_report(fit, [radiograph], model, start, began=["At <b>."]))
    assert tags.images == 6  # before, after, three of the comparison, certainty
    assert "6.5 mm in depth" in text
    assert "0.8 mm across" in text
    assert "It lies &lt; there." in text
    assert "Began: At &lt;b&gt;." in text
    turn = [f"{value:.1f} degrees" for value in np.degrees([0.1] * 3)]
    assert "".join(f"<td>{one}</td>" for one in turn) in text  # radians inside, degrees on the page
    without = Fit(**{**vars(fit), "mesh": None})  # of a CT: no outlines, no vertices, but the two on a chessboard
    assert checked(text := fit_report(without, [radiograph])).images == 4
    assert "picture that the CT would give" in text


def test_what_is_left_is_red_where_the_frame_is_brighter():
    picture = _signed(torch.tensor([[2.0, 0.0], [-2.0, -1.0]]))
    assert picture[0, 0].tolist() == [255, 0, 0]
    assert picture[0, 1].tolist() == [255, 255, 255]
    assert picture[1, 0].tolist() == [0, 0, 255]
    red, green, blue = picture[1, 1].tolist()
    assert (red, green, blue) == (red, red, 255)
    assert 100 < red < 150


def test_a_chessboard_holds_both_pictures():
    one, other = np.full((24, 16, 3), 10, np.uint8), np.full((24, 16, 3), 200, np.uint8)
    board = _chequered(one, other)[..., 0]  # fields of 3 pixels, eight along the longer side
    assert board[:3, :3].max() == 10
    assert board[:3, 3:6].min() == 200
    assert board[3:6, :3].min() == 200
    assert board[21:24, 3:6].max() == 10


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
LOADED = """<script>addEventListener("load", () => { document.title = [...document.images].map(i => i.naturalWidth); });
</script></head>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_a_browser_opens_the_report_without_complaint(fitted, tmp_path):
    radiograph, fit, model, start = fitted
    path = tmp_path / "Bericht ü.html"
    path.write_text(fit_report(fit, [radiograph], model, start).replace("</head>", LOADED), encoding="utf-8")
    words = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--virtual-time-budget=5000"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()]
    ended = subprocess.run([str(BROWSER), *words], capture_output=True, text=True, timeout=120, check=False)
    title = ended.stdout.partition("<title>")[2].partition("</title>")[0]
    widths = [int(width) for width in title.split(",")]
    assert len(widths) == 6
    assert widths == [SHOWN] * 6  # 0 for a picture that did not load
    assert "CONSOLE" not in ended.stderr  # where it would say what failed


def test_the_nearer_surface_is_drawn_in_front():
    camera = cios_camera(size=64)  # the detector in front of the patient, who is seen from there
    square = torch.tensor([[-30.0, 0, -30], [30, 0, -30], [30, 0, 30], [-30, 0, 30]])
    points = torch.cat([square + torch.tensor([0.0, 40, 0]), square - torch.tensor([0.0, 40, 0])])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    for uncertain, colour in ((0, (250, 230, 60)), (4, (35, 30, 110))):  # the one in front, the one behind
        deviations = torch.ones(8)
        deviations[uncertain : uncertain + 4] = 5.0
        picture, (low, high) = certainty_picture(Mesh(points, faces), deviations, camera, 64)
        assert (low, high) == (1.0, 5.0)
        assert picture[32, 36] == pytest.approx(np.array(colour), abs=2)
        assert picture[2, 2].tolist() == [0, 0, 0]
