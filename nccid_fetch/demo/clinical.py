"""Clinical files of patients who never were, as variously filled in as hospitals fill in theirs."""

import random
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class Patient:
    """Who a synthetic patient is; the number decides what is odd about one."""

    number: int
    pseudonym: str
    positive: bool
    centre: str
    sex: str
    age: int
    swabbed: date


def positive(rng: random.Random, patient: Patient) -> dict[str, Any]:
    """Fill in the spreadsheet of a positive patient, as variously as hospitals do."""
    swabbed = patient.swabbed
    admitted = swabbed - timedelta(days=rng.randint(0, 4))
    form = patient.number % 4
    content: dict[str, Any] = {
        "Pseudonym": patient.pseudonym,
        "SubmittingCentre": patient.centre,
        "Date of Positive Covid Swab": _spreadsheet_date(swabbed, form),
        "Date of acquisition of 1st RT-PCR": _spreadsheet_date(swabbed, form),
        "Date of acquisition of 2nd RT-PCR": None,
        "Date of result of 1st RT-PCR": _spreadsheet_date(swabbed + timedelta(days=1), (form + 1) % 4),
        "Date of result of 2nd RT-PCR": " ",
        "Date of admission": _spreadsheet_date(admitted, form),
        "Date of 1st CXR": f"{admitted:%m/%d/%Y}",
        "Date last known alive": f"[Text] - {swabbed + timedelta(days=30)}",
        "1st RT-PCR result": rng.choice((1, "1", "RNA DETECTED (SARS-CoV-2)")),
        "2nd RT-PCR result": None,
        "Final COVID Status": rng.choice((1, "RNA DETECTED (SARS-CoV-2)")),
        "Age": rng.choice((patient.age, str(patient.age), patient.age + 0.876)),
        "Sex": rng.choice((patient.sex, "0" if patient.sex == "F" else "1")),
        "Ethnicity": rng.choice(("A", "B", "H", "M", "White British", "99")),
        "CXR severity": rng.choice((0, 1, 2, "3", "t")),
        "COVID CODE": rng.choice((0, 1, 2, 3, "CVCX2")),
        "ITU admission": rng.choice((0, 1)),
        "Intubation": 0,
        "Death": rng.choice((0, 0, 1)),
        "Smoking status": rng.choice((0, 1, 2, None)),
        "PMH hypertension": rng.choice((0, 1, "1es")),
        "PMH h1pertension": None,
        "PMH Lung disease": rng.choice((0, 1, "5 - Lung Ca")),
        "PMH diabetes mellitus TYPE II": rng.choice((0, 1)),
        "Duration of symptoms": rng.randint(1, 14),
        "Respiratory rate on admission": rng.randint(14, 32),
        "Heart rate on admission": rng.randint(60, 120),
        "FiO2": rng.choice((0.21, "0.28", "10L")),
        "O2 saturation": rng.randint(84, 99),
        "Systolic BP": f"[{rng.randint(110, 160)}/{rng.randint(60, 95)}] - {admitted}",
        "Diastolic BP": " ",
        "Temperature on admission": round(rng.uniform(36.2, 39.4), 1),
        "WCC on admission": round(rng.uniform(3.0, 14.0), 2),
        "Lymphocyte count on admission": round(rng.uniform(0.3, 2.5), 2),
        "CRP on admission": rng.choice((rng.randint(3, 240), "<4")),
        "Fibrinogen  if d-dimer not performed": None,
        "Troponin I": rng.choice((None, "<2.5", 11)),
    }
    if patient.number % 2:
        content["SpecialFormatTimestamp"] = f"{admitted:%Y%m%d}-"
    if patient.number % 3 == 0:
        content["OtherDataSources"] = {
            "SegmentationData": {"Lobes affected": rng.randint(1, 5), "Segmented by": "Reader 1", "Comment": None}
        }
    return content


def _spreadsheet_date(day: date, form: int) -> str | int:
    """Write a day as one of the forms that the real files mix."""
    if form == 0:
        return f"{day:%m/%d/%Y}"
    if form == 1:
        return f"[Text] - {day}"
    if form == 2:
        return (day - date(1899, 12, 30)).days  # What a spreadsheet means by 43909.
    return str(day)


def negative(patient: Patient, *, newer: bool) -> dict[str, Any]:
    """Fill in the form of a negative patient: of one swab, or newer and with a list of them."""
    earlier = patient.swabbed - timedelta(days=2)
    timestamp = f"{earlier:%Y%m%d}-{patient.swabbed:%Y%m%d}"
    if newer:
        return {
            "SwabDates": [{"SwabDate": f"{day:%d/%m/%Y}", "SwabStatus": 0} for day in (earlier, patient.swabbed)],
            "SpecialFormatTimestamp": timestamp,
            "Pseudonym": patient.pseudonym,
            "SubmittingCentre": patient.centre,
        }
    return {
        "SwabStatus": 0,
        "SwabDate": f"{patient.swabbed:%d/%m/%Y}",
        "SpecialFormatTimestamp": timestamp,
        "Pseudonym": patient.pseudonym,
        "SubmittingCentre": patient.centre,
    }
