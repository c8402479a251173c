"""DICOM: series of files and multi-frame files as volumes, DICOM SEG as labels.

pydicom finds the elements of a file and decodes compressed pixels; which files make a volume, in which order, and where
its voxels lie is worked out here, and what is doubtful is refused or told. ``pip install 'voxtract[dicom]'``.
"""

from voxtract.read.dicom.source import is_dicom, open_dicom
from voxtract.read.dicom.volume import DicomVolume

__all__ = ["DicomVolume", "is_dicom", "open_dicom"]
