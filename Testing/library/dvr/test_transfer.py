"""Transfer functions: what they refuse, what files keep of them, and that a table goes there and back."""

import json
import warnings

import pytest
import torch

from diffrender.dvr.transfer import (
    PRESETS,
    TransferFunction,
    read_transfer,
    transfer_function,
    transfer_of_table,
    transfer_preset,
    write_transfer,
)
from diffrender.errors import Notice, PathError, SettingError

SLICERS = """1
1
0.9
0.1
0.2
10
6 -3024 0 140 0.17 3071 0.6
4 0 1 255 1
12 -3024 0 0 0 -86.9767 0.25 0.5 0.75 3071 0.83 0.66 1
"""


def odd() -> TransferFunction:
    return transfer_function(
        [(-310.5, 0.1, 0.2, 0.3), (47.25, 0.9, 0.4, 0.05), (1203.125, 1, 0.75, 0.6)],
        [(-200, 0), (33.3, 0.12345678), (700, 1)],
        2.5,
        "odd",
    )


def test_extinction_covers_what_the_opacity_says():
    found = odd().at(torch.tensor([-200.0, 33.3, -5000.0, 5000.0]))
    covered = 1 - torch.exp(-2.5 * found[:, 3])
    # 0.9999 stands for opaque; float32
    torch.testing.assert_close(covered, torch.tensor([0, 0.12345678, 0, 0.9999]), atol=1e-6, rtol=0)
    torch.testing.assert_close(found[2:, :3], torch.tensor([[0.1, 0.2, 0.3], [1.0, 0.75, 0.6]]))
    middle = odd().at(torch.tensor([(47.25 + 1203.125) / 2]))[0, :3]
    torch.testing.assert_close(middle, torch.tensor([0.95, 0.575, 0.325]))  # linear between points


@pytest.mark.parametrize(
    ("colours", "opacities", "words"),
    [
        ([(0, 0, 0, 0)], [(0, 0), (1, 1)], "two colours"),
        ([(0, 0, 0, 0), (0, 1, 1, 1)], [(0, 0), (1, 1)], "rise"),
        ([(0, 0, 0, 0), (9, 1, 1, 1.2)], [(0, 0), (1, 1)], "between 0 and 1"),
        ([(0, 0, 0, 0), (9, 1, 1, 1)], [(5, 0), (1, 1)], "rise"),
        ([(0, 0, 0, 0), (9, 1, 1, 1)], [(0, 0), (float("nan"), 1)], "NaN"),
        ([(0, 0, 0, 0), (9, 1, 1, 1)], [(0, -0.1), (1, 1)], "between 0 and 1"),
    ],
)
def test_what_is_no_transfer_function_is_refused(colours, opacities, words):
    with pytest.raises(SettingError, match=words):
        transfer_function(colours, opacities)


@pytest.mark.parametrize("ending", ["json", "vp.json"])
def test_files_keep_it_exactly(tmp_path, ending):
    for transfer in (odd(), *PRESETS.values()):
        back = read_transfer(write_transfer(tmp_path / f"{transfer.name}.{ending}", transfer))
        assert back == transfer


def test_slicers_text_keeps_it_for_one_millimetre(tmp_path):
    for transfer in (odd(), *PRESETS.values()):
        back = read_transfer(write_transfer(tmp_path / "a.vp", transfer))
        assert back.unit_distance == 1
        hu = torch.tensor([point[0] for point in transfer.opacities])  # between them the opacity's unit matters
        # ten digits are written; near opaque the extinction is the logarithm of what is left
        torch.testing.assert_close(back.at(hu), transfer.at(hu), atol=2e-5, rtol=1e-4)


def test_slicers_own_file_is_read_with_a_notice(tmp_path):
    (tmp_path / "s.vp").write_text(SLICERS)
    with pytest.warns(Notice, match="shading"):
        found = read_transfer(tmp_path / "s.vp")
    assert found.opacities == ((-3024.0, 0.0), (140.0, 0.17), (3071.0, 0.6))
    assert found.colours[1] == (-86.9767, 0.25, 0.5, 0.75)
    plain = SLICERS.replace("1\n1\n", "1\n0\n", 1)
    (tmp_path / "g.vp").write_text(plain.replace("4 0 1 255 1", "4 0 0.3 255 1"))
    with pytest.warns(Notice, match="gradient"):
        read_transfer(tmp_path / "g.vp")
    (tmp_path / "p.vp").write_text(plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_transfer(tmp_path / "p.vp")


def test_a_step_in_slicers_file_is_read_as_slicer_does(tmp_path):
    (tmp_path / "s.vp").write_text(
        SLICERS.replace("1\n1\n", "1\n0\n", 1).replace("6 -3024 0 140 0.17", "6 140 0 140 0.17")
    )
    found = read_transfer(tmp_path / "s.vp").at(torch.tensor([139.9, 140.1]))[:, 3]
    assert found[0] == 0
    assert found[1] > 0.18  # -ln(1 - 0.17) is 0.186


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.vp", "1\n0\n0.9\n", "3 lines"),
        ("a.vp", SLICERS.replace("12 -3024", "16 -3024"), "16 numbers and holds 12"),
        ("a.vp", SLICERS.replace("0.17", "x"), "no number"),
        ("a.json", '{"format": 1, "name"', "no JSON"),
        ("a.json", '{"format": 2}', "2"),
        ("a.json", '{"format": 1, "colours": []}', "opacities"),
        ("a.json", '{"format": 1, "colours": [[1, 2]], "opacities": []}', "colours"),
        ("a.vp.json", '{"volumeProperties": []}', "without a component"),
    ],
)
def test_broken_files_are_named(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingError, match=words) as error:
        read_transfer(tmp_path / name)
    assert name in str(error.value)


def test_files_that_are_none_are_named(tmp_path):
    with pytest.raises(PathError, match=r"nothing\.vp"):
        read_transfer(tmp_path / "nothing.vp")
    (tmp_path / "b.vp").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(PathError, match="no text"):
        read_transfer(tmp_path / "b.vp")
    with pytest.raises(SettingError, match="written as"):
        write_transfer(tmp_path / "a.txt", odd())
    with pytest.raises(SettingError, match="ct-lung"):
        transfer_preset("ct-lungs")


def test_a_table_goes_back_to_points():
    table = odd().table(64, -900, 1900)
    back = transfer_of_table(table.entries, -900, 1900, unit_distance=0.7)
    assert len(back.colours) == len(back.opacities) == 64
    # float32, and the logarithm of what an opaque entry leaves
    torch.testing.assert_close(back.table(64, -900, 1900).entries, table.entries, atol=1e-5, rtol=1e-4)


def test_a_trained_table_fits_into_the_lines_that_slicer_reads(tmp_path):
    entries = torch.rand(256, 4, generator=torch.Generator().manual_seed(3)).cumsum(0) / 256
    transfer = transfer_of_table(entries, -1024, 3071)
    with pytest.warns(Notice, match=r"vp\.json keeps"):
        path = write_transfer(tmp_path / "t.vp", transfer)
    assert max(map(len, path.read_text().splitlines())) <= 1023
    hu = torch.linspace(-1024, 3071, 400)
    # about 20 points are left of 256; a random walk strays between them, a smooth table less
    assert (read_transfer(path).at(hu)[:, :3] - transfer.at(hu)[:, :3]).abs().max() < 0.05
    whole = json.loads(write_transfer(tmp_path / "t.vp.json", transfer).read_text())
    assert len(whole["volumeProperties"][0]["components"][0]["scalarOpacity"]["points"]) == 256


def test_presets_show_neither_air_nor_what_they_are_not_for():
    air, table = torch.tensor([-1024.0, -1000.0]), torch.tensor([-400.0, 0.0, 100.0])
    for preset in PRESETS.values():
        assert float(preset.at(air)[:, 3].max()) == 0
    assert float(transfer_preset("ct-bone").at(table)[:, 3].max()) == 0
    assert float(transfer_preset("ct-vessels").at(table)[:, 3].max()) == 0
