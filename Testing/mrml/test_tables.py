"""Tables and plots: each column's type and order, and charts that show it."""

import math

import pytest

from diffrender import mrml
from diffrender.errors import InputError, SettingError

ROWS = [
    {"step": 0, "loss": 0.75, "held out": None, "outcome": "running", "best": False},
    {"step": 2**31 - 1, "loss": 1 / 3, "held out": 0.5, "outcome": "Übung", "best": True},
]


def test_there_and_back(scene):
    node = mrml.rows_to_node(scene, ROWS, "losses", {"loss": "1/mm"})
    first, second = mrml.rows_of(node)
    assert list(first) == list(ROWS[0])
    assert math.isnan(first.pop("held out"))
    assert first == {"step": 0, "loss": 0.75, "outcome": "running", "best": 0}
    assert second == {"step": 2**31 - 1, "loss": 1 / 3, "held out": 0.5, "outcome": "Übung", "best": 1}
    assert node.GetColumnUnitLabel("loss") == "1/mm"
    mrml.rows_to_node(scene, [{"a": 2**40, "b": "x"}], "", node=node)
    assert mrml.rows_of(node) == [{"a": float(2**40), "b": "x"}]
    assert mrml.rows_of(mrml.rows_to_node(scene, [], "none")) == []


def test_ragged_rows_are_refused(scene):
    with pytest.raises(SettingError, match=r"Row 1 of the table has the columns \['b'\], the first one \['a'\]"):
        mrml.rows_to_node(scene, [{"a": 1}, {"b": 1}], "x")
    with pytest.raises(InputError, match="choose a table"):
        mrml.rows_of(None)


def test_a_chart_shows_columns_of_the_table(scene):
    table = mrml.rows_to_node(scene, ROWS, "losses")
    chart = mrml.plot_to_nodes(scene, table, "step", ["loss", "held out"], "Training", ("step", "loss [1/mm]"))
    lines = [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    assert [line.GetYColumnName() for line in lines] == ["loss", "held out"]
    assert {line.GetXColumnName() for line in lines} == {"step"}
    assert {line.GetTableNode() for line in lines} == {table}
    assert lines[0].GetColor() != lines[1].GetColor()
    assert (chart.GetXAxisTitle(), chart.GetYAxisTitle()) == ("step", "loss [1/mm]")
    before = scene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode")
    mrml.plot_to_nodes(scene, table, "step", ["loss"], "Training", chart=chart)
    assert (chart.GetNumberOfPlotSeriesNodes(), before) == (1, 2)
    assert scene.GetNumberOfNodesByClass("vtkMRMLPlotSeriesNode") == 1
    with pytest.raises(SettingError, match="'losses' has no column 'gain'"):
        mrml.plot_to_nodes(scene, table, "step", ["gain"], "x")
