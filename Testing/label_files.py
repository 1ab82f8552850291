"""Label files of every kind for tests, filled from one formula in world millimetres; nothing in it is symmetric."""

import gzip
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import SimpleITK as sitk  # noqa: N813
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
NAMES = {1: "hip_left", 2: "hip_right", 7: "sacrum"}


def lattice(origin, turn, spacing, flip=(1, 1, 1)):
    """world_from_voxel: rotation vector [rad], voxel size (i, j, k) [mm], the signs of the axes."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec(turn).as_matrix() * np.array(spacing) * np.array(flip)
    affine[:3, 3] = origin
    return affine


def centres(shape, world_from_voxel):
    """Voxel centres (k, j, i, 3), RAS [mm]."""
    k, j, i = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    return np.stack([i, j, k], -1) @ world_from_voxel[:3, :3].T + world_from_voxel[:3, 3]


def label_at(points):
    """The id at RAS points [mm]: two unlike ellipsoids, and a slab with an oblique face."""
    left = (((points - [-9.0, 6.0, 4.0]) / [6.0, 9.0, 7.0]) ** 2).sum(-1) < 1
    right = (((points - [11.0, -5.0, -3.0]) / [8.0, 5.0, 9.0]) ** 2).sum(-1) < 1
    slab = points @ [0.3, 0.5, -0.8] > 12.5
    return np.select([left, right, slab], [1, 2, 7], 0)


def itk_image(array, world_from_voxel, vector=False):
    image = sitk.GetImageFromArray(array, isVector=vector)
    affine = LPS_FROM_RAS @ world_from_voxel
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def write_image(path, array, world_from_voxel):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(itk_image(array, world_from_voxel), str(path))
    return Path(path)


def write_seg_nrrd(path, layers, world_from_voxel, segments, list_last=False, **fields):
    """As Slicer writes it: (layer, k, j, i), a plain text header, gzip; `segments` are dicts of Segment<N>_ fields."""
    layers = np.asarray(layers)
    affine = LPS_FROM_RAS @ world_from_voxel
    directions = ["(" + ",".join(repr(float(x)) for x in affine[:3, axis]) + ")" for axis in range(3)]
    sizes, kinds = [str(n) for n in reversed(layers.shape[1:])], ["domain"] * 3
    if len(layers) > 1:
        at = 3 if list_last else 0
        sizes.insert(at, str(len(layers)))
        directions.insert(at, "none")
        kinds.insert(at, "list")
    type_name = {"uint8": "unsigned char", "int16": "short"}[layers.dtype.name]
    lines = ["NRRD0004", f"type: {type_name}", f"dimension: {len(sizes)}", "space: left-posterior-superior"]
    lines += [f"sizes: {' '.join(sizes)}", f"space directions: {' '.join(directions)}", f"kinds: {' '.join(kinds)}"]
    lines += ["endian: little", "encoding: gzip"]
    lines += ["space origin: (" + ",".join(repr(float(x)) for x in affine[:3, 3]) + ")"]
    for n, segment in enumerate(segments):
        lines += [f"Segment{n}_{key}:={value}" for key, value in segment.items()]
    lines += [f"{key}:={value}" for key, value in fields.items()]
    content = layers if list_last or len(layers) == 1 else np.moveaxis(layers, 0, -1)
    Path(path).write_bytes(
        "\n".join([*lines, "", ""]).encode() + gzip.compress(np.ascontiguousarray(content).tobytes())
    )
    return Path(path)


def ct_slices(shape, world_from_voxel, frame_uid):
    """Data sets of a CT series, which highdicom derives a segmentation from."""
    affine = LPS_FROM_RAS @ world_from_voxel
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    series, study = generate_uid(), generate_uid()
    slices = []
    for k in range(shape[0]):
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        ds.SOPClassUID, ds.SOPInstanceUID = pydicom.uid.CTImageStorage, generate_uid()
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            ds.SOPClassUID,
            ds.SOPInstanceUID,
        )
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame_uid
        ds.PatientID, ds.PatientName, ds.PatientBirthDate, ds.PatientSex = "42", "Secret^Name", "", ""
        ds.StudyID, ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "", "20200101", "000000", ""
        ds.ReferringPhysicianName, ds.Modality, ds.PositionReferenceIndicator = "", "CT", ""
        ds.SeriesNumber, ds.InstanceNumber = 1, k + 1
        ds.Rows, ds.Columns = shape[1], shape[2]
        ds.PixelSpacing = [float(steps[1]), float(steps[0])]
        ds.SliceThickness = float(steps[2])
        ds.ImageOrientationPatient = (affine[:3, :2] / steps[:2]).T.ravel().tolist()
        ds.ImagePositionPatient = (affine[:3, 2] * k + affine[:3, 3]).tolist()
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 1
        ds.PixelData = np.zeros(shape[1:], "<i2").tobytes()
        slices.append(ds)
    return slices


def write_seg(path, masks, world_from_voxel, names, kind="BINARY", frame_uid="1.2.3", shuffle=None):
    """A DICOM SEG by highdicom. `masks` (k, j, i, segment), or (k, j, i) ids for a label map."""
    descriptions = [
        highdicom.seg.SegmentDescription(
            segment_number=n,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Bone,
            algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for n, name in enumerate(names, 1)
    ]
    seg = highdicom.seg.Segmentation(
        source_images=ct_slices(masks.shape[:3], world_from_voxel, frame_uid),
        pixel_array=masks,
        segmentation_type=kind,
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    )
    if shuffle is not None:  # frames in any order: pixels and functional groups alike
        frames = seg.pixel_array
        order = np.random.default_rng(shuffle).permutation(len(frames))
        seg.PerFrameFunctionalGroupsSequence = [seg.PerFrameFunctionalGroupsSequence[n] for n in order]
        seg.PixelData = np.packbits(frames[order].ravel(), bitorder="little").tobytes()
        seg.PixelData += b"\0" * (len(seg.PixelData) % 2)
    seg.save_as(path)
    return Path(path)


def write_rtstruct(path, structures, frame_uid="1.2.3", kinds=None):
    """`structures`: {name: [(n, 3) contour corners, RAS mm, ...]}; `kinds`: {name: geometric type}."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", generate_uid()
    ds.Modality, ds.PatientName, ds.PatientID = "RTSTRUCT", "Secret^Name", "42"
    ds.StructureSetLabel, ds.StructureSetDate = "test", "20200101"
    ds.StructureSetROISequence, ds.ROIContourSequence = [], []
    for n, (name, contours) in enumerate(structures.items(), 1):
        roi = Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID, roi.ROIGenerationAlgorithm = (
            n,
            name,
            frame_uid,
            "",
        )
        ds.StructureSetROISequence.append(roi)
        item = Dataset()
        item.ReferencedROINumber, item.ROIDisplayColor, item.ContourSequence = n, [255, 0, 0], []
        for corners in contours:
            contour = Dataset()
            contour.ContourGeometricType = (kinds or {}).get(name, "CLOSED_PLANAR")
            contour.NumberOfContourPoints = len(corners)
            contour.ContourData = [f"{x:.6f}" for x in (np.asarray(corners) * [-1, -1, 1]).ravel()]
            item.ContourSequence.append(contour)
        ds.ROIContourSequence.append(item)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.save_as(path, enforce_file_format=True)
    return Path(path)
