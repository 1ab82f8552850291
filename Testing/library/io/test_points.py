"""Landmarks from Slicer's files, JSON and CSV."""

import json

import pytest

from diffrender.errors import LabelError, PathError
from diffrender.io.points import read_landmarks

RAS = {"FH-l": (-88.0, 1.5, 0.25), "ASIS-r": (118.0, 46.0, -83.0)}


def fcsv(system: str, sign: int) -> str:
    rows = "".join(
        f"p{n},{sign * r},{sign * a},{s},0,0,0,1,1,1,0,{k},,\n" for n, (k, (r, a, s)) in enumerate(RAS.items())
    )
    columns = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
    return f"# Markups fiducial file version = 4.11\n# CoordinateSystem = {system}\n{columns}\n{rows}"


def markups(system: str, sign: int) -> str:
    points = [{"label": k, "position": [sign * r, sign * a, s]} for k, (r, a, s) in RAS.items()]
    points.append({"label": "unset", "position": [0, 0, 0], "positionStatus": "undefined"})
    return json.dumps({"markups": [{"type": "Fiducial", "coordinateSystem": system, "controlPoints": points}]})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.fcsv", fcsv("LPS", -1)),
        ("a.fcsv", fcsv("1", -1)),
        ("a.fcsv", fcsv("0", 1)),
        ("a.mrk.json", markups("LPS", -1)),
        ("a.mrk.json", markups("RAS", 1)),
        ("a.json", json.dumps({"format": 1, "world": "RAS", "landmarks": RAS})),
        ("a.json", json.dumps(RAS)),
        ("a.csv", "Name, x, y, z\nFH-l, -88, 1.5, 0.25\nASIS-r, 118, 46, -83\n"),
        ("a.csv", "s,label,p,l\n0.25,FH-l,-1.5,88\n-83,ASIS-r,-46,-118\n"),
    ],
)
def test_places_in_space_are_ras(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_landmarks(tmp_path / name) == RAS


def test_places_in_an_image(tmp_path):
    (tmp_path / "a.csv").write_text("landmark,column,row\nFH-l,12.5,80\nFH-r,7,91.25\n")
    assert read_landmarks(tmp_path / "a.csv") == {"FH-l": (80.0, 12.5), "FH-r": (91.25, 7.0)}
    (tmp_path / "a.json").write_text('{"FH-l": [80, 12.5]}')
    assert read_landmarks(tmp_path / "a.json") == {"FH-l": (80.0, 12.5)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": [1]}', "place of a is two or three"),
        ('{"a": [1, NaN]}', "finite"),
        ('{"a": [1, 2], "b": [1, 2, 3]}', "mixes"),
        ("[1, 2]", "no landmarks"),
        ("name,row,column\na,1,2\na,3,4\n", "a stands twice"),
        ("name,up,down\na,1,2\n", "no columns"),
        ("name,row,column\n", "no columns"),
    ],
)
def test_files_that_hold_none(tmp_path, text, words):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(LabelError, match=words):
        read_landmarks(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("{")
    with pytest.raises(PathError, match="no JSON"):
        read_landmarks(tmp_path / "a.txt")
