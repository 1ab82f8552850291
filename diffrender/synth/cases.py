"""The CTs that a data set is made of: where they lie, and what identifies them."""

import hashlib
import json
from dataclasses import dataclass

import torch

from diffrender.errors import PathError
from diffrender.io.files import found, kind_of
from diffrender.io.volumes import read_volume
from diffrender.provenance import hash_of
from diffrender.synth.lungs import with_lungs
from diffrender.synth.reach import labels_hash, volume_hash
from diffrender.synth.store import fetched
from diffrender.volume import Volume

NAME_LENGTH = 12  # of a hash: enough to tell millions of CTs apart


@dataclass(frozen=True)
class Case:
    """One CT with its labels.

    Attributes:
        path, labels, names, series: as `read_volume` takes them, or URLs that fsspec reaches; or, as `path`, a volume
            with its labels.
        landmarks: a JSON file, {name: [R, A, S]} [mm]; they are projected into every view.
        patient: who it is of: CTs of one patient are in one split. By default what DICOM says, else each CT is a
            patient of its own. It is written nowhere.
    """

    path: str | Volume
    labels: str | None = None
    names: str | None = None
    series: str | None = None
    landmarks: str | None = None
    patient: str | None = None

    @property
    def title(self) -> str:
        """What it is called in messages."""
        return self.path if isinstance(self.path, str) else self.path.source or "a volume"


@dataclass(frozen=True)
class Known:
    """A case and what identifies it.

    Attributes:
        case: as given.
        ct, labels: SHA256 of the CT's files, and of the labels'.
        patient: for splits alone.
    """

    case: Case
    ct: str
    labels: str | None
    patient: str

    @property
    def key(self) -> str:
        """Of the CT together with its labels."""
        if self.labels is None:
            return self.ct
        return hashlib.sha256(f"{self.ct} {self.labels}".encode()).hexdigest()

    @property
    def name(self) -> str:
        return self.key[:NAME_LENGTH]

    def image(self, view: int) -> str:
        """What the image's files are called, without ending."""
        return f"{self.name}-{view:05}"


def known(case: Case) -> Known:
    """Raises: PathError where a file is not there, and what reading a DICOM header raises."""
    if isinstance(case.path, Volume):
        volume = case.path
        labels = None if volume.labels is None else labels_hash(volume)
        ct = volume_hash(volume)
        return Known(case, ct, labels, case.patient or (volume.header or {}).get("PatientID") or ct)
    with fetched(case.path) as path:
        ct = hash_of(found(path))
        patient = case.patient or _patient_in(path) or ct
    if case.labels is None:
        return Known(case, ct, None, patient)
    with fetched(case.labels) as path:
        return Known(case, ct, hash_of(found(path)), patient)


def volume_of(case: Case, lungs: bool = False) -> Volume:
    """The CT with its labels, and its lungs where they are asked for and it has no label of them."""
    if isinstance(case.path, Volume):
        return with_lungs(case.path) if lungs else case.path
    with fetched(case.path) as path, fetched(case.labels or ".") as labels, fetched(case.names or ".") as names:
        volume = read_volume(
            path, labels=labels if case.labels else None, names=names if case.names else None, series=case.series
        )
    return with_lungs(volume) if lungs else volume


def landmarks_of(file: str | None) -> dict[str, torch.Tensor]:
    """{name: (3,) RAS [mm]} of a JSON file, none without one. Raises: PathError for a file that holds none."""
    if file is None:
        return {}
    with fetched(file) as path:
        try:
            with open(path, encoding="utf-8") as opened:
                data = json.load(opened)
            places = data.get("landmarks", data)
            return {str(name): torch.tensor([float(n) for n in place]) for name, place in places.items()}
        except (OSError, ValueError, TypeError, AttributeError) as problem:
            raise PathError(f'{file} holds no landmarks, as {{"FH-l": [R, A, S]}} in mm: {problem}.') from None


def _patient_in(path: str) -> str | None:
    """The patient of a DICOM CT, of whom nothing but equality is used."""
    if kind_of(path) not in ("folder", "zip", "dicom"):
        return None
    header = read_volume(path).header or {}
    return header.get("PatientID") or None
