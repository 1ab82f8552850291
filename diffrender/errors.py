"""Everything we raise, one tree.

    DiffRenderError
    +-- InputError              what came in cannot be used; the command line exits with 2
    |   +-- PathError           a file or folder that is not there, not readable, empty or of no known kind
    |   +-- GeometryError       a lattice, a camera, a projection matrix or a motion that cannot be
    |   |   +-- WarpError       a node of Slicer under a transform that bends space: a resampled copy can be used
    |   +-- ImageError          the numbers of a volume or an image: dimensions, NaN, constant
    |   +-- DicomError          a series, a slice, a tag
    |   +-- LabelError          labels and the tables that name them
    |   +-- MeshError           surfaces
    |   +-- UnitError           attenuation asked of values that are not Hounsfield units
    |   +-- SettingError        an option, a name or a number outside what is offered
    |   +-- MemoryNeedError     larger than the machine's memory, said before it is tried
    +-- OutputError             a result that could not be written; nothing half-written stays
    +-- BackendError            a backend or an optional package asked for by name that is not here
    +-- DownloadError           sample data that did not arrive, or arrived changed

A message says which file, what was found, what it means and what to do, and never a patient's name.
What is done differently than the user may think, but done, is a `Notice` (a warning, not an error).
"""

import warnings


class DiffRenderError(Exception):
    """The root: catch this, and everything the library raises on purpose is caught."""


class InputError(DiffRenderError):
    """What came in cannot be used."""


class PathError(InputError):
    """A file or folder that is not there, not readable, empty or of no known kind."""


class GeometryError(InputError):
    """A lattice, a camera, a projection matrix or a motion that cannot be."""


class WarpError(GeometryError):
    """A node of Slicer under a transform that bends or shears space: a resampled copy of it can be used."""


class ImageError(InputError):
    """The numbers of a volume or an image: dimensions, NaN, constant."""


class DicomError(InputError):
    """A series, a slice, a tag."""


class LabelError(InputError):
    """Labels and the tables that name them."""


class MeshError(InputError):
    """Surfaces."""


class UnitError(InputError):
    """Attenuation asked of values that are not Hounsfield units."""


class SettingError(InputError):
    """An option, a name or a number outside what is offered."""


class MemoryNeedError(InputError):
    """Larger than the machine's memory, said before it is tried."""


class OutputError(DiffRenderError):
    """A result that could not be written; nothing half-written stays."""


class BackendError(DiffRenderError):
    """A backend or an optional package asked for by name that is not here."""


class DownloadError(DiffRenderError):
    """Sample data that did not arrive, or arrived changed."""


class Notice(UserWarning):
    """Something was done that the user should know of: a localizer left out, labels resampled, an image inverted."""


def notify(text: str) -> None:
    """Say `text` as a `Notice`; the command line prints it on one line, the panels in their log."""
    warnings.warn(text, Notice, stacklevel=3)
