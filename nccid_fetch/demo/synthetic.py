"""A synthetic warehouse: real DICOM and real JSON about patients who never were.

Everything follows from the seed: the same arguments give the same bytes on every machine. Patients do not depend on
one another either, so the first patients of a large warehouse are those of a small one.

The shapes, including the ugly ones, are those of the real warehouse: its metadata deviates from the DICOM JSON model
where its scrubber blanked binary values, and its clinical files hold whatever a hospital's spreadsheet held.
"""

import json
import random
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from nccid_fetch.warehouse import GROUPS, part_prefix

from . import require_extra
from .clinical import Patient, negative, positive

require_extra()  # Before the imports that would fail without it, so that the message is ours.

from pydicom import Dataset, FileMetaDataset, config, dcmwrite  # noqa: E402
from pydicom.dataelem import DataElement  # noqa: E402
from pydicom.sequence import Sequence  # noqa: E402
from pydicom.uid import (  # noqa: E402
    UID,
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    MRImageStorage,
)

Modality = Literal["CT", "MR", "DX", "CR", "SR"]

CENTRES = ("Centre A", "Centre B", "Centre C", "Centre D")
EDGE_CASE_PATIENTS = 11
"""With at least this many patients, every edge case is there."""

_PART = {"CT": "ct", "MR": "mri", "DX": "xray", "CR": "xray"}
_SOP_CLASS: dict[Modality, UID] = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "DX": DigitalXRayImageStorageForPresentation,
    "CR": ComputedRadiographyImageStorage,
    "SR": BasicTextSRStorage,
}
_ROWS_AND_COLUMNS: dict[Modality, tuple[int, int]] = {"CT": (128, 128), "MR": (96, 96), "DX": (640, 512)}
_CR_SIZES = ((512, 512), (640, 512), (600, 480))
_IMPLEMENTATION = UID("2.25.281474976710597")
_FIRST_NUMBER = dict(zip(GROUPS, (0, 5000), strict=True))
"""A patient belongs to one group only, so the groups count from different numbers."""

_VOI_LUT_SEQUENCE = "00283010"
_PIXEL_DATA = "7FE00010"

# Patients of whom there is one: who they are decides what is odd about them.
_MANY_CLINICAL_FILES = 1
_UUID_PSEUDONYM = 3
_NO_IMAGES = 4
_TWO_CENTRES = 5
_UPPER_CASE_SUFFIX = 7
_ORPHAN_METADATA = 8
_ORPHAN_IMAGE = 9
_UNKNOWN_MODALITY = 10

_LOW_NIBBLE = bytes(value & 0x0F for value in range(256))
_TISSUE = bytes(4 + (value & 0x03) for value in range(256))


@dataclass(frozen=True, slots=True)
class SyntheticObject:
    """An object of the synthetic warehouse."""

    key: str
    body: bytes


@dataclass(frozen=True, slots=True)
class _Instance:
    """An image and its place in the hierarchy."""

    modality: Modality
    study_uid: str
    series_uid: str
    sop_uid: str
    study_date: date
    series_number: int
    number: int
    name: str = ""
    suffix: str = ".dcm"
    with_image: bool = True
    with_metadata: bool = True

    @property
    def part(self) -> str:
        return _PART.get(self.modality, "unknown")


def warehouse(group: str = "training", patients: int = 24, seed: int = 0) -> Iterator[SyntheticObject]:
    """Make up a group of the warehouse, patient after patient.

    Args:
        group: `training` or `validation`. They have different patients.
        patients: How many patients; the edge cases need `EDGE_CASE_PATIENTS` of them.
        seed: Another seed, another warehouse.

    Yields:
        The objects, the clinical files of a patient before their images.

    Raises:
        ValueError: If there is no such group.
    """
    if group not in GROUPS:
        raise ValueError(f"no such group: {group}")
    for number in range(patients):
        # Not for secrets: the point is that everyone gets the same numbers.
        rng = random.Random(f"nccid-fetch demo {group} {seed} {number}")  # noqa: S311
        patient = _patient(rng, group, number)
        for name, content in _clinical_files(rng, patient):
            body = json.dumps(content, separators=(",", ":")).encode("ascii")
            yield SyntheticObject(f"{part_prefix(group, 'data')}{patient.pseudonym}/{name}", body)
        for instance in _instances(rng, patient):
            yield from _image_and_metadata(rng, group, patient, instance)


def write_tree(folder: Path, objects: Iterable[SyntheticObject]) -> int:
    """Write each object to its key below a folder.

    Args:
        folder: Where the tree begins; it is made if need be.
        objects: What to write.

    Returns:
        How many objects were written.
    """
    count = 0
    for count, item in enumerate(objects, start=1):  # noqa: B007 - the last number is the count.
        path = folder / item.key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.body)
    return count


def _uuid(rng: random.Random) -> uuid.UUID:
    return uuid.UUID(int=rng.getrandbits(128), version=4)


def _uid(rng: random.Random) -> str:
    """Make a UID under 2.25, the root that belongs to whoever has a UUID."""
    return f"2.25.{_uuid(rng).int}"


def _patient(rng: random.Random, group: str, number: int) -> Patient:
    return Patient(
        number=number,
        pseudonym=(f"Covid{_uuid(rng)}" if number == _UUID_PSEUDONYM else f"Covid{_FIRST_NUMBER[group] + number:04d}"),
        positive=number % 3 != 2,
        centre=rng.choice(CENTRES),
        sex=rng.choice("FM"),
        age=rng.randint(21, 97),
        swabbed=date(2020, 3, 9) + timedelta(days=rng.randrange(240)),
    )


# Clinical files.


def _clinical_files(rng: random.Random, patient: Patient) -> Iterator[tuple[str, dict[str, Any]]]:
    """Make the files of a patient. Their names have the day of the upload, which is long after the swab."""
    first = patient.swabbed + timedelta(days=rng.randint(14, 60))
    second = first + timedelta(days=rng.randint(4, 30))
    if patient.number == _MANY_CLINICAL_FILES:
        for day in (first, second):
            yield f"data_{day}.json", positive(rng, patient)
            yield f"status_{day}.json", negative(patient, newer=day == second)
    elif patient.number == _TWO_CENTRES:
        elsewhere = CENTRES[(CENTRES.index(patient.centre) + 1) % len(CENTRES)]
        yield f"data_{first}.json", positive(rng, patient)
        yield f"data_{second}.json", positive(rng, replace(patient, centre=elsewhere))
    elif patient.positive:
        yield f"data_{first}.json", positive(rng, patient)
        if patient.number % 6 == 0:
            yield f"data_{second}.json", positive(rng, patient)
    else:
        yield f"status_{first}.json", negative(patient, newer=patient.number % 2 == 1)


# Images.


def _instances(rng: random.Random, patient: Patient) -> Iterator[_Instance]:
    """Decide which studies, series and images a patient has."""
    number = patient.number
    if number == _NO_IMAGES:
        return
    if number % 2 == 0 or number == _ORPHAN_IMAGE:
        slices = list(_study(rng, patient, "CT", [rng.randint(6, 12) for _ in range(rng.randint(2, 3))]))
        if number == _ORPHAN_IMAGE:
            slices[-1] = replace(slices[-1], with_metadata=False)
        yield from slices
    if number % 8 == 6:
        yield from _study(rng, patient, "MR", [rng.randint(6, 9), rng.randint(6, 9)])
    if number % 4 or number == _ORPHAN_METADATA:
        for nth in range(rng.randint(1, 2)):
            modality: Modality = "CR" if (number + nth) % 3 == 0 else "DX"
            images = list(_study(rng, patient, modality, [1]))
            if number == _UPPER_CASE_SUFFIX and nth == 0:
                images[0] = replace(images[0], suffix=".DCM")
            elif number == _ORPHAN_METADATA and nth == 0:
                images[0] = replace(images[0], with_image=False)
            yield from images
    if number == _UNKNOWN_MODALITY:
        yield from _study(rng, patient, "SR", [1])


def _study(rng: random.Random, patient: Patient, modality: Modality, images: list[int]) -> Iterator[_Instance]:
    """Make a study out of the number of images in each of its series."""
    study_uid = _uid(rng)
    study_date = patient.swabbed + timedelta(days=rng.randint(-3, 10))
    for series_number, count in enumerate(images, start=1):
        series_uid = _uid(rng)
        for number in range(1, count + 1):
            yield _Instance(modality, study_uid, series_uid, _uid(rng), study_date, series_number, number)


def _image_and_metadata(
    rng: random.Random, group: str, patient: Patient, instance: _Instance
) -> Iterator[SyntheticObject]:
    dataset = _dataset(rng, patient, instance)
    place = f"{patient.pseudonym}/{instance.study_uid}/{instance.series_uid}/{instance.sop_uid}"
    if instance.with_metadata:
        yield SyntheticObject(f"{part_prefix(group, f'{instance.part}-metadata')}{place}.json", _metadata(dataset))
    if instance.with_image:
        if "Rows" in dataset:
            dataset.add_new(_PIXEL_DATA, "OW", _pixels(rng, dataset.Rows, dataset.Columns))
        yield SyntheticObject(f"{part_prefix(group, instance.part)}{place}{instance.suffix}", _file(dataset))


def _dataset(rng: random.Random, patient: Patient, instance: _Instance) -> Dataset:
    """Describe an image, all but its pixels."""
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SOPClassUID = _SOP_CLASS[instance.modality]
    dataset.SOPInstanceUID = instance.sop_uid
    dataset.StudyDate = f"{instance.study_date:%Y%m%d}"
    dataset.StudyTime = f"{rng.randrange(24):02d}{rng.randrange(60):02d}00"
    dataset.AccessionNumber = None
    dataset.Modality = instance.modality
    dataset.Manufacturer = "Imaginary Imaging"
    dataset.ReferringPhysicianName = None
    dataset.PatientName = patient.pseudonym
    dataset.PatientID = patient.pseudonym
    dataset.PatientBirthDate = f"{2020 - patient.age}0101"
    dataset.PatientSex = patient.sex
    # Some devices forget the unit. pydicom would warn, and rightly.
    age = f"{patient.age:03d}Y" if patient.number % 3 else str(patient.age)
    dataset.add(DataElement("PatientAge", "AS", age, validation_mode=config.IGNORE))
    dataset.StudyInstanceUID = instance.study_uid
    dataset.SeriesInstanceUID = instance.series_uid
    dataset.StudyID = None
    dataset.SeriesNumber = instance.series_number
    dataset.InstanceNumber = instance.number
    block = dataset.private_block(0x0029, "NCCID-FETCH DEMO", create=True)
    block.add_new(0x10, "OB", rng.randbytes(64))
    block.add_new(0x11, "LO", "made up")
    if instance.modality == "SR":
        _describe_report(dataset, instance)
    else:
        _describe_image(rng, dataset, instance)
        if instance.modality == "CT":
            _describe_ct(dataset, instance)
        elif instance.modality == "MR":
            _describe_mr(dataset, instance)
        else:
            _describe_xray(rng, dataset, instance)
    return dataset


def _describe_image(rng: random.Random, dataset: Dataset, instance: _Instance) -> None:
    rows, columns = _ROWS_AND_COLUMNS.get(instance.modality) or rng.choice(_CR_SIZES)
    dataset.AcquisitionDate = dataset.StudyDate
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = rows
    dataset.Columns = columns
    dataset.BitsAllocated = 16
    dataset.BitsStored = 12
    dataset.HighBit = 11
    dataset.PixelRepresentation = 0


def _describe_ct(dataset: Dataset, instance: _Instance) -> None:
    dataset.BodyPartExamined = "CHEST"
    dataset.StudyDescription = "CT Thorax"
    dataset.SeriesDescription = ("Scout", "Lung 1.5", "Mediastinum 3.0")[instance.series_number - 1]
    dataset.SliceThickness = "1.5" if instance.series_number == 2 else "3"
    dataset.KVP = "120"
    dataset.ConvolutionKernel = ("B31f", "B70f", "B31f")[instance.series_number - 1]
    dataset.ImagePositionPatient = ["-180", "-180", f"{-1.5 * instance.number}"]
    dataset.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    dataset.SliceLocation = f"{-1.5 * instance.number}"
    dataset.PixelSpacing = ["2.8125", "2.8125"]
    dataset.RescaleIntercept = "-1024"
    dataset.RescaleSlope = "1"
    dataset.WindowCenter = ["40", "-600"]
    dataset.WindowWidth = ["400", "1200"]
    reference = Dataset()
    reference.ReferencedSOPClassUID = CTImageStorage
    reference.ReferencedSOPInstanceUID = instance.sop_uid
    dataset.ReferencedImageSequence = Sequence([reference])
    dataset.ReferencedStudySequence = Sequence([])


def _describe_mr(dataset: Dataset, instance: _Instance) -> None:
    dataset.BodyPartExamined = "CHEST"
    dataset.StudyDescription = "MRI Thorax"
    dataset.SeriesDescription = f"T{instance.series_number} axial"
    dataset.ScanningSequence = "SE"
    dataset.SequenceVariant = "NONE"
    dataset.ScanOptions = None
    dataset.SliceThickness = "6"
    dataset.RepetitionTime = "550.5"
    dataset.EchoTime = "12"
    dataset.MagneticFieldStrength = "1.5"
    dataset.PixelSpacing = ["4.1667", "4.1667"]


def _describe_xray(rng: random.Random, dataset: Dataset, instance: _Instance) -> None:
    dataset.BodyPartExamined = rng.choice(("CHEST", "CHEST", "CHEST", "ABDOMEN"))
    # Latin-1 in the file, an escape in the JSON.
    dataset.StudyDescription = "XR Chest, 5\N{DEGREE SIGN} caudal"
    dataset.SeriesDescription = None
    dataset.ViewPosition = rng.choice(("AP", "PA", "LATERAL"))
    dataset.ImagerPixelSpacing = ["0.6", "0.6"]
    dataset.PresentationLUTShape = "IDENTITY"
    if instance.modality == "DX":
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [256, 0, 16])
        table.LUTExplanation = "NORMAL"
        table.add_new("LUTData", "OW", rng.randbytes(512))
        dataset.VOILUTSequence = Sequence([table])
        view = Dataset()
        view.CodeValue = "399348003"
        view.CodingSchemeDesignator = "SCT"
        view.CodeMeaning = "antero-posterior"
        dataset.ViewCodeSequence = Sequence([view])


def _describe_report(dataset: Dataset, instance: _Instance) -> None:
    heading = Dataset()
    heading.CodeValue = "18782-3"
    heading.CodingSchemeDesignator = "LN"
    heading.CodeMeaning = "Radiology Study observation"
    finding = Dataset()
    finding.RelationshipType = "CONTAINS"
    finding.ValueType = "TEXT"
    finding.ConceptNameCodeSequence = Sequence([heading])
    finding.TextValue = f"Study of {instance.study_date}: nothing to report, for there was no patient."
    dataset.ContentDate = dataset.StudyDate
    dataset.ContentTime = dataset.StudyTime
    dataset.ValueType = "CONTAINER"
    dataset.ConceptNameCodeSequence = Sequence([heading])
    dataset.ContinuityOfContent = "SEPARATE"
    dataset.ContentSequence = Sequence([finding])
    dataset.CompletionFlag = "COMPLETE"
    dataset.VerificationFlag = "UNVERIFIED"


def _pixels(rng: random.Random, rows: int, columns: int) -> bytes:
    """Draw an ellipse of tissue in noisy air: twelve bits a pixel, and nothing that compresses well."""
    size = rows * columns
    low = rng.randbytes(size)
    # Outside the ellipse only the noise of the lowest four bits.
    pixels = bytearray(2 * size)
    pixels[0::2] = low.translate(_LOW_NIBBLE)
    for row in range(rows):
        height = 2 * (row + 0.5) / rows - 1
        half = int(0.45 * columns * (1 - height * height) ** 0.5)
        first = row * columns + columns // 2 - half
        last = first + 2 * half
        pixels[2 * first : 2 * last : 2] = low[first:last]
        pixels[2 * first + 1 : 2 * last + 1 : 2] = low[first:last].translate(_TISSUE)
    return bytes(pixels)


def _file(dataset: Dataset) -> bytes:
    """Encode a data set as a DICOM file, with a header that does not depend on pydicom's version."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION
    meta.ImplementationVersionName = "NCCID_FETCH_DEMO"
    dataset.file_meta = meta
    target = BytesIO()
    dcmwrite(target, dataset, enforce_file_format=True)
    return target.getvalue()


def _metadata(dataset: Dataset) -> bytes:
    """Encode a data set as the warehouse's loader does: DICOM JSON, scrubbed of everything binary."""
    content = dataset.to_json_dict()
    # In the order of a file, which is that of the tags; the data set remembers the order in which it was filled.
    return json.dumps(_scrub({tag: content[tag] for tag in sorted(content) if tag < _PIXEL_DATA})).encode("ascii")


def _scrub(node: Any) -> Any:  # noqa: ANN401 - JSON is anything.
    if isinstance(node, dict):
        return {
            name: None if name in ("InlineBinary", _VOI_LUT_SEQUENCE) else _scrub(child) for name, child in node.items()
        }
    if isinstance(node, list):
        return [_scrub(child) for child in node]
    return node
