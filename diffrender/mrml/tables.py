"""Rows of names and numbers to table nodes and plots, and back. No torch."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from diffrender.errors import SettingError
from diffrender.mrml.nodes import Node, Scene, called, new_node, of_kind

KIND = "vtkMRMLTableNode"
Row = Mapping[str, str | int | float | bool | None]
MOST = 2**31 - 1  # what a column of Slicer's tables holds as a whole number
COLOURS = ((0.12, 0.47, 0.71), (1.0, 0.5, 0.05), (0.17, 0.63, 0.17), (0.84, 0.15, 0.16), (0.58, 0.4, 0.74))


def rows_to_node(
    scene: Scene, rows: Sequence[Row], name: str, units: Mapping[str, str] | None = None, node: Node = None
) -> Node:
    """A table node: a column for each key, in the order of the first row; words, whole numbers or numbers.

    A saved scene keeps six digits of numbers.

    Args:
        units: {column: unit} shown in the column's header.
        node: an existing one whose columns these replace.
    Raises: SettingError where a row lacks a column or has another one.
    """
    names = list(rows[0]) if rows else []
    odd = next((n for n, row in enumerate(rows) if list(row) != names), None)
    if odd is not None:
        raise SettingError(f"Row {odd} of the table has the columns {list(rows[odd])}, the first one {names}.")
    node = new_node(scene, KIND, name) if node is None else of_kind(node, KIND, what="a table")
    changing = node.StartModify()
    node.RemoveAllColumns()
    # called so from Slicer 5.11 on
    headed = getattr(node, "SetUseColumnTitleAsColumnHeader", None) or node.SetUseColumnNameAsColumnHeader
    headed(True)
    for column in names:
        node.AddColumn(_column(column, [row[column] for row in rows]))
        if units and column in units:
            node.SetColumnUnitLabel(column, units[column])
    node.EndModify(changing)
    return node


def rows_of(node: Node) -> list[dict[str, str | int | float]]:
    """The rows of a table node, {column: value}. Raises: InputError for another node."""
    table = of_kind(node, KIND, what="a table").GetTable()
    columns = [table.GetColumn(n) for n in range(table.GetNumberOfColumns())]
    return [{column.GetName(): _value(column, n) for column in columns} for n in range(table.GetNumberOfRows())]


def plot_to_nodes(
    scene: Scene,
    table: Node,
    x: str,
    ys: Sequence[str],
    name: str,
    axes: tuple[str, str] = ("", ""),
    chart: Node = None,
) -> Node:
    """A chart of columns of a table over its column `x`, a line each; who fills the table anew moves the lines.

    Args:
        axes: what stands beside the two axes, with units; by default the columns' names.
        chart: an existing one whose lines these replace.
    Raises: SettingError for a column that the table does not have.
    """
    known = [table.GetColumnName(n) for n in range(table.GetNumberOfColumns())]
    missing = [column for column in (x, *ys) if column not in known]
    if missing:
        raise SettingError(f"{called(table)} has no column {missing[0]!r}; it has {known}.")
    chart = new_node(scene, "vtkMRMLPlotChartNode", name) if chart is None else chart
    for key in [chart.GetNthPlotSeriesNodeID(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]:
        scene.RemoveNode(scene.GetNodeByID(key))
    chart.RemoveAllPlotSeriesNodeIDs()
    for n, y in enumerate(ys):
        line = new_node(scene, "vtkMRMLPlotSeriesNode", y)
        line.SetAndObserveTableNodeID(table.GetID())
        line.SetXColumnName(x)
        line.SetYColumnName(y)
        line.SetPlotType(line.PlotTypeScatter)
        line.SetMarkerStyle(line.MarkerStyleNone)
        line.SetColor(*COLOURS[n % len(COLOURS)])
        chart.AddAndObservePlotSeriesNodeID(line.GetID())
    chart.SetTitle(name)
    chart.SetXAxisTitle(axes[0] or x)
    chart.SetYAxisTitle(axes[1] or ", ".join(ys))
    return chart


def _column(name: str, values: Sequence[Any]) -> Any:
    """Words where one is a word; whole numbers where all are; else numbers, NaN where one is missing."""
    from vtkmodules.vtkCommonCore import vtkDoubleArray, vtkIntArray, vtkStringArray

    column: Any
    if any(isinstance(value, str) for value in values):
        column, values = vtkStringArray(), ["" if value is None else str(value) for value in values]
    elif all(isinstance(value, int) and abs(value) <= MOST for value in values):
        column, values = vtkIntArray(), [int(value) for value in values]
    else:
        column, values = vtkDoubleArray(), [math.nan if value is None else float(value) for value in values]
    column.SetName(name)
    for value in values:
        column.InsertNextValue(value)
    return column


def _value(column: Any, n: int) -> str | int | float:
    if not column.IsA("vtkDataArray"):
        return column.GetValue(n)
    whole = not column.IsA("vtkFloatArray") and not column.IsA("vtkDoubleArray")
    return int(column.GetTuple1(n)) if whole else column.GetTuple1(n)
