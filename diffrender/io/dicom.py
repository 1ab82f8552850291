"""A volume from DICOM, slice by slice: each is decoded, rescaled and put in its place before the next one is read."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from io import BufferedIOBase
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    HTJ2K,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from diffrender.errors import DicomError, notify
from diffrender.io.dicom_frames import AIR, Frame, padding_of, upright
from diffrender.io.dicom_lattice import check_alike, in_order
from diffrender.io.dicom_series import DAMAGE, XRAY_MODALITIES, Series, carried_header, chosen, quiet, series_of
from diffrender.io.files import Part, check_memory, parts_of
from diffrender.io.filling import Filling, rescaled
from diffrender.io.itk import RAS_FROM_LPS
from diffrender.volume import Volume


def read_dicom(path: str | Path, series: str | int | None = None) -> Volume:
    """A volume from a folder or a zip of DICOM files, or from one multi-frame file.

    Peak memory is the volume and one slice. Values are HU where the modality is CT and a rescale to HU is given,
    otherwise "arbitrary".
    Args: series: number, UID or last digits of the UID, where there are several.
    Raises: DicomError, PathError, SettingError, MemoryNeedError.
    """
    with parts_of(path) as parts:
        one = chosen(path, series_of(path, parts), series)
        frames, lps_from_voxel = in_order(path, _slices(path, one))
        shape = (len(frames), *frames[0].size)
        whole = all(_is_whole(frame) for frame in frames)
        check_memory(path, 1.02 * np.prod(shape, dtype=float) * (2 if whole else 4))
        unit = _unit(path, one, frames)
        values = _values(path, frames, shape, unit)
        header = carried_header(one, frames)
    world = torch.from_numpy(RAS_FROM_LPS @ lps_from_voxel)
    return Volume(torch.from_numpy(values), world, unit=unit, source=str(path), header=header)


def _slices(path: str | Path, series: Series) -> list[Frame]:
    """The series without its localizers. Raises: DicomError for what is no series of slices."""
    if series.modality == "SEG":
        raise DicomError(f"{path} is a segmentation (DICOM SEG), not a volume. Give it as labels, beside its CT.")
    frames = series.frames
    if series.modality in XRAY_MODALITIES and not any(frame.placed for frame in frames):
        raise DicomError(
            f"{path} is an X-ray image (modality {series.modality}), not a volume: it has no place in the patient and "
            "no depth. Give a CT; X-ray images are read by `read_radiographs`."
        )
    if any(int(frame.header.get("SamplesPerPixel") or 1) != 1 for frame in frames):
        raise DicomError(
            f"{path} holds colour images (SamplesPerPixel, 0028,0002): pictures, not a CT. Give its slices."
        )
    slices = [frame for frame in frames if not frame.localizer]
    if not slices:
        raise DicomError(
            f"{path} holds only localizers (overview images, ImageType 0008,0008), no slices. Give the folder of the "
            "scan."
        )
    if len(slices) < len(frames):
        left = [frame.name for frame in frames if frame.localizer]
        notify(
            f"{path}: {len(left)} localizer{'' if len(left) == 1 else 's'} (overview images) left out: "
            f"{', '.join(left[:3])}{', ...' if len(left) > 3 else ''}."
        )
    check_alike(path, slices)
    return slices


def _unit(path: str | Path, series: Series, frames: Sequence[Frame]) -> str:
    if series.modality != "CT":
        return "arbitrary"
    lacking = next((frame for frame in frames if frame.slope is None or frame.intercept is None), None)
    if lacking is not None:
        tags = ("RescaleSlope (0028,1053)", lacking.slope), ("RescaleIntercept (0028,1052)", lacking.intercept)
        notify(
            f"{lacking.name} has no {' and no '.join(tag for tag, number in tags if number is None)}, so its numbers "
            'are not Hounsfield units: the volume is read with unit "arbitrary", good for pictures, not for '
            'attenuation. If they are HU all the same, set its unit to "HU".'
        )
        return "arbitrary"
    # "US" is "unspecified": GDCM and ITK write it into every file that they convert, CT included.
    kind = next((frame.rescale_type for frame in frames if frame.rescale_type not in (None, "HU", "US")), None)
    if kind:
        notify(
            f'{path} is a CT whose numbers are not Hounsfield units (RescaleType, 0028,1054, says "{kind[:16]}"): it '
            'is read with unit "arbitrary", good for pictures, not for attenuation. If they are HU all the same, set '
            'its unit to "HU".'
        )
        return "arbitrary"
    negative = next((frame for frame in frames if frame.slope is not None and frame.slope < 0), None)
    if negative is not None:
        notify(
            f"{negative.name} has a negative RescaleSlope (0028,1053), {negative.slope:g}: what is dense would be dark "
            "in a CT. The numbers are rescaled as it says; check that air comes out near -1000 HU."
        )
    return "HU"


def _is_whole(frame: Frame) -> bool:
    return all(number is None or number.is_integer() for number in (frame.slope, frame.intercept))


def _values(path: str | Path, frames: Sequence[Frame], shape: tuple[int, int, int], unit: str) -> np.ndarray:
    filling = Filling(shape)
    padded = 0
    for k, stored in _stored(frames):
        frame = frames[k]
        ends = padding_of(frame.header)
        mask = np.zeros(stored.shape, bool) if ends is None else (stored >= ends[0]) & (stored <= ends[1])
        stored = upright(stored, frame.header)
        values = rescaled(stored, 1.0 if frame.slope is None else frame.slope, frame.intercept or 0.0)
        if mask.any():
            padded += int(mask.sum())
            # In what is no HU nothing means air; the lowest number of the slice shows as dark as anything in it.
            low = AIR if unit == "HU" else 0 if mask.all() else values[~mask].min()
            values = np.where(mask, values.dtype.type(low), values)
        filling.put(k, values)
    if padded:
        notify(
            f"{path}: {padded} voxels ({100 * padded / filling.values.size:.1f} %) are padding, where nothing was "
            f"measured (PixelPaddingValue, 0028,0120); they are read as "
            f"{'air, -1000 HU' if unit == 'HU' else 'the lowest value'}."
        )
    if any(frame.header.get("PhotometricInterpretation") == "MONOCHROME1" for frame in frames):
        notify(
            f"{path} is stored inverted (MONOCHROME1, PhotometricInterpretation 0028,0004): its numbers are turned "
            "round, so that more is brighter and denser."
        )
    return filling.values


def _stored(frames: Sequence[Frame]) -> Iterator[tuple[int, np.ndarray]]:
    """(k, the numbers of slice k as stored), file by file and in a file frame by frame, each decoded when it is asked "
    "for."""
    for _, run in groupby(enumerate(frames), key=lambda numbered: id(numbered[1].part)):
        numbered = sorted(run, key=lambda entry: entry[1].index)
        part, header = numbered[0][1].part, numbered[0][1].header
        arrays = decoded(part, header, [frame.index for _, frame in numbered])
        for (k, _), array in zip(numbered, arrays, strict=True):
            yield k, array


def decoded(part: Part, header: Dataset, indices: Sequence[int]) -> Iterator[np.ndarray]:
    with part.open() as file, closing(_arrays(file, header, indices)) as frames:
        for index in indices:
            try:
                with quiet():
                    stored = next(frames)
            except (*DAMAGE, StopIteration) as problem:
                raise _undecoded(part, header, index, problem) from None
            yield stored


def _arrays(file: BufferedIOBase, header: Dataset, indices: Sequence[int]) -> Generator[np.ndarray, None, None]:
    """The frames as stored. Many uncompressed ones are read from the file one by one; what is compressed is held whole
    first, which is less than the volume, and shows whether its end is missing: not every decoder would say."""
    syntax = header.file_meta.get("TransferSyntaxUID")
    if syntax is not None and len(indices) > 1 and not (syntax.is_encapsulated or syntax.is_deflated):
        yield from iter_pixels(file, indices=list(indices))  # pyright: ignore[reportArgumentType]
        return
    dataset = dcmread(file, force=True)
    if syntax is None:  # as old as its missing preamble
        implicit = dataset.original_encoding[0]
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    yield from iter_pixels(dataset, indices=list(indices))


def _undecoded(part: Part, header: Dataset, index: int, problem: BaseException) -> DicomError:
    syntax = header.file_meta.get("TransferSyntaxUID")
    kind = "uncompressed" if syntax is None or not syntax.is_compressed else syntax.name
    words = " ".join(str(problem).split())[:200]
    if "missing dependencies" in words or isinstance(problem, NotImplementedError):
        return DicomError(
            f"{part.name} is stored as {kind}, and no decoder for that is installed here. {_remedy(syntax)}or export "
            "the series uncompressed."
        )
    return DicomError(
        f"{part.name} is truncated or damaged: frame {index + 1} of its pixels ({kind}) cannot be decoded ({words}). A "
        "slice of the volume would be missing; export or copy the series again."
    )


def _remedy(syntax: UID | None) -> str:
    """Which package decodes what is stored so."""
    if syntax in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes):
        return "python-gdcm decodes it: `pip install python-gdcm`, "
    if syntax in (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K):
        return "pylibjpeg-openjpeg decodes it: `pip install pylibjpeg pylibjpeg-openjpeg`, "
    return "No package that is known here decodes it: have its sender export it otherwise, "
