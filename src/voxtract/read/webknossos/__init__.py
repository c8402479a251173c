"""WEBKNOSSOS annotations and datasets as sources of volumes, read chunk by chunk."""

from voxtract.read.webknossos.source import AnnotationSource, open_webknossos

__all__ = ["AnnotationSource", "open_webknossos"]
