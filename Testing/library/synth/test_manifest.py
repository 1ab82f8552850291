"""Manifests: written alike for the same entries, read from a person's hand, and broken lines by their number."""

import pytest

from diffrender.errors import PathError
from diffrender.synth.manifest import lines_of, of_split, read_manifest


def test_entries_come_back_as_they_were(tmp_path):
    first = {"image": "images/ä.png", "split": "val", "labels": [{"id": 7, "name": "rib"}]}
    entries = [first, {"split": "train", "image": "b.png"}]
    (tmp_path / "manifest.jsonl").write_bytes(lines_of(entries))
    assert read_manifest(tmp_path) == entries
    assert read_manifest(tmp_path / "manifest.jsonl") == entries
    assert of_split(entries, "val") == entries[:1]


def test_the_same_entries_make_the_same_bytes():
    assert lines_of([{"a": 1, "image": "x"}]) == lines_of([{"image": "x", "a": 1}])


def test_a_person_may_leave_out_everything_but_the_image_and_blank_lines(tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('\ufeff{"image": "a.png"}\n\n{"image": "b.png"}\n', encoding="utf-8")
    assert [entry["image"] for entry in of_split(read_manifest(file), "train")] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"image": "a.png"', "line 3 is no JSON"),
        ('["a.png"]', "line 3 names no image"),
        ('{"images": "a.png"}', "line 3 names no image"),
        ('{"image": "a.png", "split": "tset"}', "line 3: split is train, val, test, not 'tset'"),
    ],
)
def test_a_broken_line_is_named_by_its_number(tmp_path, line, reason):
    file = tmp_path / "manifest.jsonl"
    file.write_text(f'{{"image": "a.png"}}\n\n{line}\n{{"image": "c.png"}}\n')
    with pytest.raises(PathError, match=reason):
        read_manifest(file)


@pytest.mark.parametrize(("content", "reason"), [(b"", "no entries"), (b"\xff\xfe\x00x", "UTF-8")])
def test_what_is_no_manifest_is_refused(tmp_path, content, reason):
    (tmp_path / "manifest.jsonl").write_bytes(content)
    with pytest.raises(PathError, match=reason):
        read_manifest(tmp_path)
    with pytest.raises(PathError, match="No such file"):
        read_manifest(tmp_path / "none")
